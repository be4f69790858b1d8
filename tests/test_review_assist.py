"""Objects under clicks in the review: the server with a real model class, and the tool of the page."""

import gzip
import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from shutil import copytree
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from werkzeug.test import TestResponse

from clip_tiny import tiny_folder, tiny_model
from review_page import Regions, Served, await_open, console, press, until
from review_run import IDS, SIZE, build_run, open_session
from sam_tiny import tiny_sam_folder
from tag2mask.cli import main
from tag2mask.data import read_image, read_mask, write_mask
from tag2mask.networks.promptable import full_size, load_promptable
from tag2mask.review import Assistant, Server
from tag2mask.review.server import Guard, build_app

HEIGHT, WIDTH = SIZE
BASE = "http://127.0.0.1:8765"
SQUARE, BAR = (slice(15, 45), slice(10, 40)), (slice(10, 50), slice(55, 65))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("review")).parent


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    """The image `one` has a square and a bar on a dark ground, and an empty mask."""
    run = Path(copytree(built, tmp_path / "review")) / "run"
    pixels = np.full((HEIGHT, WIDTH, 3), 80, dtype=np.uint8)
    pixels[SQUARE], pixels[BAR] = 160, 240
    Image.fromarray(pixels).save(run.parent / "data/one.jpg", quality=100, subsampling=0)
    write_mask(run / "masks/one.png", np.zeros(SIZE, dtype=np.uint8))
    return run


@pytest.fixture
def regions() -> Regions:
    return Regions()


@pytest.fixture
def served(run: Path, regions: Regions) -> Iterator[Served]:
    review = Served(run, Assistant(regions, read_image))
    yield review
    regions.go_on.set()
    review.stop()


class Client:
    """Requests to the server of a run."""

    def __init__(self, run: Path, assistant: Assistant | None) -> None:
        self.session, self.guard = open_session(run), Guard("127.0.0.1", 8765)
        self.session.assistant = assistant
        self.client: FlaskClient = build_app(self.session, self.guard, "run").test_client()

    def get(self, address: str, **query: Any) -> TestResponse:
        given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
        return self.client.get(f"/{self.guard.key}{address}", base_url=BASE, query_string=given)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam_folder(tmp_path_factory.mktemp("sam") / "sam2", "sam2")


@pytest.mark.parametrize("size", [(37, 53), (90, 20)])
def test_the_mask_is_the_best_candidate_of_the_model(run: Path, sam: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(run.parent / "data/one.jpg", "PNG")
    model = load_promptable(str(sam), "assist")
    page = Client(run, Assistant(model, read_image))
    encoded = model.encode(pixels)
    assert page.get("/api/images/0/encoding").status_code == 200
    sizes = set()
    for points, box in (
        ([[3.5, 4.5, 1]], None),
        ([[3.5, 4.5, 1], [15.5, 30.5, 0], [10, 20.25, 1]], None),
        ([], [2, 3, 18, 30]),
        ([[3.5, 4.5, 0]], [2, 3, 18, 30]),
    ):
        answer = page.get("/api/images/0/object", points=points, box=box or [])
        found = np.frombuffer(gzip.decompress(answer.data), dtype=np.uint8).reshape(size)
        assert answer.headers["X-Height"] == str(size[0]) and answer.headers["X-Width"] == str(size[1])
        assert answer.headers["Cache-Control"] == "no-store"
        places = np.array([[each[:2] for each in points]]) if points else None
        labels = np.array([[each[2] for each in points]]) if points else None
        expected = model.masks(encoded, places, labels, None if box is None else np.array([box], dtype=float))
        best = full_size(expected.logits, encoded)[0, expected.scores[0].argmax()]
        np.testing.assert_array_equal(found, best.numpy())
        sizes.add(found.tobytes())
    assert len(sizes) > 2, "the prompts make no difference"


def test_an_image_is_encoded_once_and_again_after_a_change(run: Path, regions: Regions) -> None:
    page = Client(run, Assistant(regions, read_image))
    point = [[20.5, 20.5, 1]]
    for _ in range(2):
        assert page.get("/api/images/0/encoding").status_code == 200
        answer = page.get("/api/images/0/object", points=point, of=page.session.image_version(0))
        assert np.frombuffer(gzip.decompress(answer.data), dtype=np.uint8).sum() == 900
    assert regions.encodings == 1
    page.get("/api/images/1/encoding")
    page.get("/api/images/0/object", points=point)
    assert regions.encodings == 2
    of = page.session.image_version(0)
    Image.new("RGB", (30, 20)).save(run.parent / "data/one.jpg")
    for address in ("/api/images/0/object", "/api/images/0/encoding"):
        assert "has changed" in page.get(address, points=[[5, 5, 1]], of=of).get_json()["error"]
    answer = page.get("/api/images/0/object", points=[[5, 5, 1]])
    assert (answer.headers["X-Width"], regions.encodings) == ("30", 3)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "needs a point on it"),
        ({"points": [[5, 5, 0]]}, "needs a point on it"),
        ({"points": [[5, 5, 2]]}, "1 on the object or 0"),
        ({"points": [[5, 5, "1"]]}, "1 on the object or 0"),
        ({"points": [[5, 5, 1]] * 101}, "at most 100 points"),
        ({"points": [[81, 5, 1]]}, "inside the image, 80 × 60"),
        ({"points": [[5, -1, 1]]}, "inside the image"),
        ({"points": "[[5, NaN, 1]]"}, "inside the image"),
        ({"points": "[[5, 1e999, 1]]"}, "inside the image"),
        ({"points": [[5, 5]]}, "points should be"),
        ({"points": 5}, "points should be"),
        ({"points": "[" * 20_000}, "points should be"),
        ({"points": [["a", 5, 1]]}, "points should be"),
        ({"points": f"[[{'9' * 5000}, 5, 1]]"}, "points should be"),
        ({"box": [5, 5, 5, 9]}, "x1 < x2"),
        ({"box": [5, 5, 9]}, "x1 < x2"),
        ({"box": [5, 5, 9, 99]}, "inside the image"),
        ({"points": [[5, 5, 1]], "box": {"a": 1}}, "points should be"),
    ],
)
def test_what_is_not_a_prompt_is_refused(run: Path, regions: Regions, query: dict[str, Any], message: str) -> None:
    answer = Client(run, Assistant(regions, read_image)).get("/api/images/0/object", **query)
    assert (answer.status_code, regions.encodings) == (400, 0) and message in answer.get_json()["error"]


def test_what_cannot_be_answered_says_why(run: Path, regions: Regions) -> None:
    page, prompt = Client(run, Assistant(regions, read_image)), {"points": [[5, 5, 1]]}
    broken = page.session.list.index("broken")
    for address in (f"/api/images/{broken}/object", f"/api/images/{broken}/encoding"):
        assert page.get(address, **prompt).status_code == 422
    assert page.get("/api/images/9/object", **prompt).status_code == 404
    assert 'data-tool="object"' in page.get("/").text
    plain = Client(run, None)
    for address in ("/api/images/0/object", "/api/images/0/encoding"):
        assert plain.get(address, **prompt).status_code == 404
    assert 'data-tool="object"' not in plain.get("/").text


def test_the_command_loads_the_model_before_it_serves(
    run: Path, sam: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Server, "serve", Server.close)
    assert main(["review", str(run), "--assist", str(sam)]) == 0
    shown = capsys.readouterr()
    assert f"loading {sam}" in shown.err.replace("\n", "") and "open http://" in shown.out
    clip = tiny_folder(run.parent / "clip", tiny_model())
    for name, message in ((str(clip), "a model of type 'clip', it should be 'sam2'"), ("sam2", "(owner/model)")):
        assert main(["review", str(run), "--assist", name]) == 2
        shown = capsys.readouterr()
        assert message in " ".join(shown.err.split()) and "open http://" not in shown.out
    assert main(["review", str(run), "--assist", "sam2", "--dry-run"]) == 2
    assert main(["review", str(run), "--assist", str(sam), "--dry-run"]) == 0


def test_the_end_waits_for_the_model(served: Served, regions: Regions) -> None:
    regions.go_on.clear()
    address = urlsplit(served.server.address)
    connection = HTTPConnection(str(address.hostname), address.port, timeout=60)
    connection.request("GET", f"{address.path}api/images/0/encoding")
    while regions.encodings == 0:
        time.sleep(0.01)
    served.server.stop()
    served.thread.join(0.2)
    assert served.thread.is_alive()
    regions.go_on.set()
    served.thread.join(60)
    assert not served.thread.is_alive()


@pytest.mark.browser
def test_clicks_refine_one_object_in_one_step(page: webdriver.Chrome, run: Path) -> None:
    press(page, "2o")
    expected = np.zeros(SIZE, dtype=np.uint8)
    _point(page, (20, 20))
    expected[SQUARE] = 2
    _saved(page, run, expected)
    _point(page, (60, 20))  # and the bar
    expected[BAR] = 2
    _saved(page, run, expected)
    _point(page, (60, 45), button=2)  # not the bar
    expected[BAR] = 0
    _saved(page, run, expected)
    page.find_element(By.ID, "outside").click()
    _point(page, (20, 20))  # nor the square: nothing is left
    until(page, lambda: not (run / "corrections/one.png").exists())
    press(page, Keys.ESCAPE)
    expected[BAR], expected[SQUARE] = 3, 2
    for key, place in (("2", (20, 20)), ("3", (60, 20))):  # another class begins another object
        press(page, key)
        _point(page, place)
    _saved(page, run, expected)
    _undo(page)
    expected[BAR] = 0
    _saved(page, run, expected)
    _undo(page)
    until(page, lambda: not (run / "corrections/one.png").exists())
    page.find_element(By.ID, "outside").click()
    _point(page, (20, 20))  # there is no object to take from
    until(page, lambda: "Click the object first" in page.find_element(By.ID, "note").text)
    assert not (run / "corrections/one.png").exists()


@pytest.mark.browser
def test_a_press_that_adds_nothing_asks_nothing(page: webdriver.Chrome, run: Path) -> None:
    press(page, "2o")
    expected = np.zeros(SIZE, dtype=np.uint8)
    _point(page, (20, 20))
    expected[SQUARE] = 2
    _saved(page, run, expected)
    assert len(_asked(page)) == 1
    _point(page, (-1, 20))
    _point(page, (-1, -1), (-1, 20))
    page.find_element(By.ID, "next-object").click()
    _point(page, (60, 20), button=2)
    until(page, lambda: "Click the object first" in page.find_element(By.ID, "note").text)
    _point(page, (60, 20))
    expected[BAR] = 2
    _saved(page, run, expected)
    assert len(_asked(page)) == 2


@pytest.mark.browser
def test_an_error_of_another_image_drops_no_click(page: webdriver.Chrome, run: Path, regions: Regions) -> None:
    press(page, "2o")
    until(page, lambda: regions.encodings == 1)
    regions.go_on.clear()
    _point(page, (20, 20))
    until(page, lambda: page.find_element(By.ID, "object-state").text == "Looking for the object …")
    press(page, "j")
    await_open(page, IDS[1])
    press(page, "2")
    _point(page, (20, 20))
    regions.broken = True
    regions.go_on.set()
    until(page, lambda: (run / f"corrections/{IDS[1]}.png").is_file())
    assert not page.find_element(By.ID, "trouble").is_displayed()
    assert not (run / "corrections/one.png").exists() and any("500" in message for message in console(page))


@pytest.mark.browser
def test_a_box_by_mouse_and_touch_and_a_point_by_keyboard(page: webdriver.Chrome, run: Path) -> None:
    press(page, "2o")
    expected = np.zeros(SIZE, dtype=np.uint8)
    _point(page, (50, 5), (69, 39))  # the bar, of which the box has the upper part
    expected[10:40, 55:65] = 2
    _saved(page, run, expected)
    _point(page, (5, 10), (44, 49), kind="touch")  # another object
    expected[SQUARE] = 2
    _saved(page, run, expected)
    press(page, Keys.ESCAPE)
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT):  # the keyboard begins in the middle, on the ground
        ActionChains(page).key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()
    press(page, "0" + Keys.ENTER)
    until(page, lambda: page.find_element(By.ID, "spoken").text == "Point set")
    _saved(page, run, expected)
    press(page, "3" + Keys.ENTER)
    expected[expected == 0] = 3
    expected[40:50, 55:65] = 0  # the rest of the bar
    _saved(page, run, expected)


@pytest.mark.browser
def test_the_page_goes_on_while_the_model_works(
    page: webdriver.Chrome, run: Path, regions: Regions, served: Served
) -> None:
    assert regions.encodings == 0
    regions.go_on.clear()
    press(page, "2o")
    state = page.find_element(By.ID, "object-state")
    until(page, lambda: state.text == "Reading the image …" and regions.encodings == 1)
    _point(page, (20, 20))
    press(page, "3")
    _point(page, (60, 20))  # both wait
    press(page, "b")  # another tool drops them
    _point(page, (2, 2))
    until(page, lambda: (run / "corrections/one.png").is_file())
    regions.go_on.set()
    press(page, "o2")
    _point(page, (20, 20))
    until(page, lambda: (read_mask(run / "corrections/one.png")[SQUARE] == 2).all())
    assert (read_mask(run / "corrections/one.png")[BAR] == 0).all() and regions.encodings == 1
    before = read_mask(run / "corrections/one.png")
    regions.broken = True
    _point(page, (60, 20))
    until(page, lambda: "the model does not answer" in page.find_element(By.ID, "trouble").text)
    assert any("500" in message for message in console(page))
    _point(page, (60, 20))  # the drawing is kept, and a new object begins
    before[BAR] = 2
    _saved(page, run, before)
    assert not page.find_element(By.ID, "trouble").is_displayed()
    regions.go_on.clear()
    press(page, "3")
    _point(page, (20, 20))
    until(page, lambda: state.text == "Looking for the object …")
    _undo(page)  # drops the click alone
    _point(page, (60, 20))
    regions.go_on.set()
    before[BAR] = 3
    _saved(page, run, before)
    until(page, lambda: state.text.startswith("Click what is missing"))


def _point(
    page: webdriver.Chrome,
    start: tuple[int, int],
    end: tuple[int, int] | None = None,
    button: int = 0,
    kind: str = "mouse",
) -> None:
    """Press on the middle of a pixel of the mask, and drag to another one."""
    box = page.find_element(By.ID, "canvas").rect
    scale = min((box["width"] - 24) / WIDTH, (box["height"] - 24) / HEIGHT)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    actions = ActionBuilder(page, mouse=PointerInput(kind, kind), duration=20)
    for place in (start, end):
        if place is None:
            continue
        x, y = (place[0] + 0.5 - WIDTH / 2) * scale, (place[1] + 0.5 - HEIGHT / 2) * scale
        actions.pointer_action.move_to_location(round(middle[0] + x), round(middle[1] + y))
        if place is start:
            actions.pointer_action.pointer_down(button)
    actions.pointer_action.pointer_up(button)
    actions.perform()


def _asked(page: webdriver.Chrome) -> list[str]:
    """The requests for objects."""
    script = "return performance.getEntriesByType('resource').map((e) => e.name).filter((e) => /object\\?/.test(e))"
    return list(page.execute_script(script))  # type: ignore[no-untyped-call]


def _saved(page: webdriver.Chrome, run: Path, expected: np.ndarray) -> None:
    file = run / "corrections/one.png"
    until(page, lambda: file.is_file() and bool((read_mask(file) == expected).all()))


def _undo(page: webdriver.Chrome) -> None:
    ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
