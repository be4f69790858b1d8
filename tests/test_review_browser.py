"""The page of a review in Chromium: browse, draw, decide, restart, and find what was drawn, pixel for pixel."""

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import copytree
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from review_run import CLASSES, IDS, SIZE, build_run, disc_along, every_value, open_session
from tag2mask import review
from tag2mask.data import ImageItem, ImageSet, read_mask, write_mask
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.review import Server, Session
from tag2mask.runs.run_folder import RunFolder

pytestmark = pytest.mark.browser

BRUSH = 15
"""The diameter that the page begins with."""


class Served:
    """A review that is served from a thread, and stopped."""

    def __init__(self, run: Path) -> None:
        self.session = open_session(run)
        self.server = Server(self.session, "run")
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()

    def stop(self) -> None:
        self.server.stop()
        self.thread.join()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("review")).parent


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    return Path(copytree(built, tmp_path / "review")) / "run"


@pytest.fixture
def served(run: Path) -> Iterator[Served]:
    review = Served(run)
    yield review
    review.stop()


@pytest.fixture
def page(chromium: webdriver.Chrome, served: Served) -> Iterator[webdriver.Chrome]:
    """The page with the first image; an error in the console fails the test, but for the broken image's."""
    _console(chromium)
    _open(chromium, served)
    yield chromium
    assert not [message for message in _console(chromium) if "422" not in message]


def test_the_browser_knows_every_property_of_the_style_sheet(page: webdriver.Chrome) -> None:
    text = (Path(review.__file__).parent / "static/style.css").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"[{;]\s*([a-z-]+)\s*:", text)))
    known = {name: page.execute_script("return CSS.supports(arguments[0], 'inherit')", name) for name in names}
    assert len(names) > 50 and [name for name, supported in known.items() if not supported] == []


def test_draw_restart_and_find_it_again(page: webdriver.Chrome, served: Served, run: Path) -> None:
    mask = every_value(0)
    _press(page, "2")  # the second of the listed classes, which is class 20
    _drag(page, (20, 30), (50, 40))
    expected = disc_along(mask, (20, 30), (50, 40), BRUSH, 20)
    _await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    _press(page, "i[[[")  # 255, three sizes smaller: 3 pixels
    _drag(page, (70, 5), (70, 5))
    expected[4:7, 69:72] = 255
    _press(page, "e")
    _drag(page, (5, 55), (9, 55))
    expected[54:57, 4:11] = 0
    _await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    assert _verdict(page) == "✎ corrected"
    pictures = _pictures(page)
    served.stop()

    again = Served(run)
    try:
        _open(page, again)
        assert pictures and not pictures & _pictures(page)  # other images may lie at the same indices now
        assert _verdict(page) == "✎ corrected"
        assert page.find_element(By.CSS_SELECTOR, "#progress p").text == f"1 of {len(IDS)} decided"
        _press(page, "[[[")
        _drag(page, (40, 58), (40, 58))  # what is drawn now goes on from what was found
        expected[57:60, 39:42] = 1
        _await_saved(page)
        np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    finally:
        again.stop()


def test_accepting_by_keyboard_keeps_every_pixel(page: webdriver.Chrome, run: Path) -> None:
    _press(page, "a")
    _await_open(page, IDS[1])
    _press(page, "a")
    _await_open(page, "turned")
    _press(page, "a")
    _await_open(page, "broken")
    shown = page.find_element(By.ID, "unreadable")
    assert shown.is_displayed() and "not an image" in shown.text
    _press(page, "r")
    _await_open(page, "last")
    _await_saved(page)
    kept = CorrectionsFolder(run / "corrections", CLASSES)
    for number, image_id in enumerate(IDS[:3]):  # every class and 255, one image turned by EXIF
        decision, path = kept.decision(image_id), kept.mask(image_id)
        assert decision is not None and decision.verdict == "accepted" and path is not None
        np.testing.assert_array_equal(read_mask(path), every_value(number))
    _press(page, "u")  # nothing is decided here: back to the last decision, which is undone
    _await_open(page, "broken")
    _press(page, "k")
    _await_open(page, "turned")
    _press(page, "u")
    _until(page, lambda: _verdict(page) == "undecided")
    _await_saved(page)
    assert [kept.decision(image_id) for image_id in ("turned", "broken", "last")] == [None] * 3
    assert kept.mask("one") is not None


def test_the_keyboards_brush_undo_and_reject(page: webdriver.Chrome, run: Path) -> None:
    mask = every_value(0)
    _press(page, "1[[")  # 5 pixels: a step of half of it is 3
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()  # 43, 30
    _press(page, Keys.ENTER)
    for keys in ((Keys.ARROW_DOWN, Keys.ARROW_DOWN), (Keys.ARROW_LEFT,)):
        ActionChains(page).key_down(Keys.SHIFT).send_keys(*keys).key_up(Keys.SHIFT).perform()
    _press(page, Keys.ENTER)
    down = disc_along(mask, (43, 30), (43, 36), 5, 1)
    expected = disc_along(down, (43, 36), (40, 36), 5, 1)
    _await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    _await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), mask)
    ActionChains(page).key_down(Keys.CONTROL).key_down(Keys.SHIFT).send_keys("z").key_up(Keys.SHIFT).key_up(
        Keys.CONTROL
    ).perform()
    _await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    _press(page, "r")
    _await_open(page, IDS[1])
    _await_saved(page)
    assert not (run / "corrections/one.png").exists()
    _press(page, "u")  # back to what was drawn, which the rejection had deleted
    _await_open(page, "one")
    _until(page, lambda: _verdict(page) == "✎ corrected")
    _await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    (run / "corrections/one.png").write_bytes(b"cut off")  # what cannot be fetched is not drawn over
    _press(page, "j")
    _await_open(page, IDS[1])
    _press(page, "k")
    _until(page, lambda: "one.png" in page.find_element(By.ID, "trouble").text)
    _drag(page, (10, 10), (12, 10))
    _press(page, "s")
    _await_saved(page)
    assert (run / "corrections/one.png").read_bytes() == b"cut off"


def test_tags_fill_and_a_stage_taken_over(page: webdriver.Chrome, run: Path) -> None:
    kept = CorrectionsFolder(run / "corrections", CLASSES)
    _press(page, "t")
    page.switch_to.active_element.send_keys(Keys.SPACE)  # the first tag of the image
    _await_saved(page)
    assert kept.decision("one") == Decision(None, (CLASSES[19],), at=kept.decision("one").at)  # type: ignore[union-attr]
    assert page.switch_to.active_element.get_attribute("data-tag") == "1"
    field = page.find_element(By.ID, "other-tag")
    field.send_keys(CLASSES[6], Keys.ENTER)
    _await_saved(page)
    decision = kept.decision("one")
    assert decision is not None and decision.tags == (CLASSES[6], CLASSES[19])
    field.send_keys(Keys.ESCAPE)
    page.find_element(By.CSS_SELECTOR, "[data-layer=cam-pot]").click()
    _press(page, "2")
    _press(page, Keys.ENTER)  # the brush of class 20 is down while a stage is taken over, and lifted by that
    page.find_element(By.CSS_SELECTOR, "[data-layer=cam-pot]").click()
    _press(page, "c")
    _until(page, lambda: "is the mask now" in page.find_element(By.ID, "note").text)
    _press(page, "")
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    assert page.find_element(By.ID, "readout").text.endswith(CLASSES[0])  # not painted on the way
    _await_saved(page)
    regions = read_mask(run / "corrections/one.png")
    assert list(regions[30, [10, 40, 70]]) == [0, 1, 20]
    _press(page, "fi")
    _drag(page, (70, 30), (70, 30))
    _await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), np.where(regions == 20, 255, regions))
    decision = kept.decision("one")
    assert decision is not None and (decision.verdict, decision.tags) == ("corrected", (CLASSES[6], CLASSES[19]))


def test_filters_stages_and_help(page: webdriver.Chrome) -> None:
    assert len(_listed(page)) == len(IDS)
    assert CLASSES[19] in _listed(page)[0].text  # a name with markup is text
    _press(page, "a")
    _await_open(page, IDS[1])
    page.refresh()  # the address names the image, whatever its ID is made of
    _await_open(page, IDS[1])
    state = Select(page.find_element(By.ID, "state"))
    state.select_by_value("undecided")
    _until(page, lambda: len(_listed(page)) == len(IDS) - 1)
    state.select_by_value("")
    find = page.find_element(By.ID, "find")
    find.send_keys("東京")
    _until(page, lambda: len(_listed(page)) == 1)
    find.send_keys(Keys.BACKSPACE * 2)
    _until(page, lambda: len(_listed(page)) == len(IDS))
    page.find_element(By.ID, "canvas").send_keys("v")
    pressed = page.find_elements(By.CSS_SELECTOR, "#layers [aria-pressed=true]")
    assert [button.text for button in pressed] == ["Mask of the run"]
    _press(page, "?")
    help_dialog = page.find_element(By.ID, "help")
    assert help_dialog.is_displayed() and "Paint" in help_dialog.text
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not help_dialog.is_displayed()
    for name in ("[data-tool=brush]", "[data-do=accept]", "#images [aria-current]"):
        button = page.find_element(By.CSS_SELECTOR, name)
        ActionChains(page).move_to_element(button).perform()
        assert _contrast(page, button) > 4.5, name
    root = page.find_element(By.TAG_NAME, "html")
    assert root.get_property("scrollWidth") == root.get_property("clientWidth")
    assert not page.execute_script(
        "return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith(origin)).length"
    )


def test_a_long_list_from_its_middle_and_keys_switched_off(
    page: webdriver.Chrome, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tag2mask.review.routes.PAGE", 2)  # images of an answer
    address = served.server.address
    page.get(f"{address}#last")
    page.refresh()
    _await_open(page, "last")
    _until(page, lambda: [row.text.partition("\n")[0] for row in _listed(page)] == ["last"])
    for image_id in reversed(IDS[:-1]):
        _press(page, "k")
        _await_open(page, image_id)
    assert not page.find_element(By.CSS_SELECTOR, ".earlier").is_displayed()
    page.get(f"{address}#%")  # nobody's ID
    page.refresh()
    _await_open(page, "one")
    for index in range(4):
        served.session.delete_mask(index, "rejected")
    page.refresh()
    _await_open(page, "one")
    _press(page, "n")
    _await_open(page, "last")
    _press(page, "?")
    page.find_element(By.ID, "single").click()
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.refresh()
    _await_open(page, "last")
    _press(page, "?ar")
    assert not page.find_element(By.ID, "help").is_displayed() and _verdict(page) == "undecided"
    _press(page, Keys.ARROW_LEFT)
    _await_open(page, "broken")
    page.find_element(By.ID, "help-open").click()
    page.find_element(By.ID, "single").click()


def test_what_cannot_be_saved_is_shown_and_kept(page: webdriver.Chrome, run: Path) -> None:
    (run / "corrections").write_text("in the way")
    _drag(page, (10, 10), (12, 10))
    _until(page, lambda: page.find_element(By.ID, "fault").is_displayed())
    assert "Not saved: Not a directory" in page.find_element(By.ID, "fault").text
    _press(page, "t")
    page.switch_to.active_element.send_keys(Keys.SPACE)
    _listed(page)[3].find_element(By.TAG_NAME, "button").click()
    _await_open(page, "broken")
    _press(page, "r")
    _await_open(page, "last")
    _press(page, "k")
    _await_open(page, "broken")
    assert _verdict(page) == "✕ rejected"  # what waits goes before what the server has
    _listed(page)[0].find_element(By.TAG_NAME, "button").click()
    _await_open(page, "one")
    assert page.find_element(By.CSS_SELECTOR, "[data-tag='1']").get_attribute("aria-pressed") == "false"
    assert _verdict(page) == "✎ corrected, tags changed"
    assert ["not saved" in row.text for row in _listed(page)] == [True, False, False, True, False]
    assert page.find_element(By.CSS_SELECTOR, "#progress p").text == f"0 of {len(IDS)} decided"
    (run / "corrections").unlink()
    page.find_element(By.ID, "retry").click()
    _await_saved(page)
    assert not page.find_element(By.ID, "fault").is_displayed()
    assert not any("not saved" in row.text for row in _listed(page))
    told = ("/mask", "/tags", "/verdict", "422")
    assert all(any(word in message for word in told) for message in _console(page))
    decisions = [CorrectionsFolder(run / "corrections", CLASSES).decision(image_id) for image_id in ("one", "broken")]
    assert [(each.verdict, each.tags) for each in decisions if each] == [
        ("corrected", (CLASSES[19],)),
        ("rejected", None),
    ]
    expected = disc_along(every_value(0), (10, 10), (12, 10), BRUSH, 1)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)


def test_two_reviews_of_one_run(page: webdriver.Chrome, served: Served, run: Path) -> None:
    open_session(run).delete_mask(0, "rejected")  # by somebody else, after the page was opened
    _drag(page, (10, 10), (12, 10))
    _until(page, lambda: "Not saved: somebody else has decided" in page.find_element(By.ID, "fault").text)
    kept = CorrectionsFolder(run / "corrections", CLASSES)
    _press(page, "j")
    _await_open(page, IDS[1])
    _press(page, "r")  # what else is decided is saved, and does not take it along
    _until(page, lambda: kept.decision(IDS[1]) is not None)
    assert [kept.decision(image_id).verdict for image_id in IDS[:2]] == ["rejected"] * 2  # type: ignore[union-attr]
    _await_open(page, "turned")
    page.find_element(By.ID, "retry").click()
    _await_saved(page)
    expected = disc_along(every_value(0), (10, 10), (12, 10), BRUSH, 1)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    _listed(page)[0].find_element(By.TAG_NAME, "button").click()
    _await_open(page, "one")
    _press(page, "r")  # its own decision is not somebody else's
    _await_saved(page)
    assert kept.decision("one").verdict == "rejected"  # type: ignore[union-attr]
    assert all("409" in message or "422" in message for message in _console(page))


def test_a_drawing_does_not_go_to_an_image_that_took_the_place(
    page: webdriver.Chrome, served: Served, run: Path
) -> None:
    Image.new("RGB", SIZE).save(served.session.list.item(0).path)  # as many pixels, on its side
    _drag(page, (10, 10), (12, 10))
    _until(page, lambda: "Not saved: the image one has changed" in page.find_element(By.ID, "fault").text)
    page.find_element(By.ID, "retry").click()
    _press(page, "j")
    _await_open(page, IDS[1])
    _press(page, "k")
    _await_open(page, "one")
    assert page.find_element(By.ID, "saving").get_attribute("data-state") == "failed"
    assert not (run / "corrections").exists()
    _press(page, "r")  # a new decision takes the place of the drawing
    _await_open(page, IDS[1])
    _await_saved(page)
    decision = CorrectionsFolder(run / "corrections", CLASSES).decision("one")
    assert decision is not None and decision.verdict == "rejected"
    assert all("409" in message or "422" in message for message in _console(page))


def test_the_key_stays_with_the_review(page: webdriver.Chrome, served: Served) -> None:
    address, key = served.server.address, urlsplit(served.server.address).path.strip("/")
    heard: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        """Another user's server on another port of this machine."""

        def do_GET(self) -> None:
            heard.append(f"{self.path}\n{self.headers}")
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<title>other</title><img src='{address.replace(key, 'guess')}api/review'>".encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    assert page.get_cookies() == []
    assert key not in page.title and key not in page.page_source
    with HTTPServer(("127.0.0.1", 0), Listener) as other:
        threading.Thread(target=other.serve_forever).start()
        page.execute_script(f"location.href = 'http://127.0.0.1:{other.server_port}/'")
        _until(page, lambda: page.title == "other")
        page.get(address)
        _await_open(page, "one")
        page.get(f"http://127.0.0.1:{other.server_port}/again")
        _until(page, lambda: any(each.startswith("/again") for each in heard))
        other.shutdown()
    assert heard and not any(key in each or "cookie" in each.lower() for each in heard)
    page.get(address)
    _await_open(page, "one")
    assert all(any(word in message for word in ("guess", "favicon", "422")) for message in _console(page))


def test_an_old_address_is_a_page_that_says_so(page: webdriver.Chrome, served: Served, run: Path) -> None:
    page.get(f"{served.server.address.rsplit('/', 2)[0]}/key-of-an-earlier-start/#one")
    assert page.find_element(By.TAG_NAME, "h1").text == "tag2mask review"
    assert "the key is new at each start" in page.find_element(By.TAG_NAME, "p").text
    _open(page, served)
    served.stop()
    _drag(page, (10, 10), (12, 10))
    _until(page, lambda: "The program does not answer" in page.find_element(By.ID, "fault").text)
    again = Server(served.session, "run", port=urlsplit(served.server.address).port or 0)
    serving = threading.Thread(target=again.serve)
    serving.start()
    page.find_element(By.ID, "retry").click()
    _until(page, lambda: "Not saved: this address is not that" in page.find_element(By.ID, "fault").text)
    again.stop()
    serving.join()
    assert not (run / "corrections").exists()
    assert all(any(word in message for word in ("403", "422", "ERR_")) for message in _console(page))


def test_names_are_text_and_not_markup(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    attack = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'<%s"
    image_id, class_name = attack % "script>", "</title></script>'\"><svg onload=alert(1)>{{7*7}}"
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    Image.new("RGB", (SIZE[1], SIZE[0])).save(data / f"{image_id}.png")
    (data / "classes.txt").write_text(f"{class_name}\n", encoding="utf-8")
    images = ImageSet((class_name,), (ImageItem(image_id, str(data / f"{image_id}.png"), (1,)),), data)
    write_mask(run / "masks" / f"{image_id}.png", np.ones(SIZE, dtype=np.uint8))
    corrections = CorrectionsFolder(run / "corrections", images.classes)
    session = Session(images, RunFolder(run), corrections, pixel_limit=100_000)
    server = Server(session, f"{class_name}{attack}")
    serving = threading.Thread(target=server.serve)
    chromium.get("about:blank")  # an earlier page may still try to save at the same port
    _console(chromium)
    serving.start()
    try:
        chromium.get(server.address)
        _await_open(chromium, image_id)
        assert "{{7*7}}" in _listed(chromium)[0].text and attack in chromium.title
        chromium.get(server.address)  # by the ID in the address
        _await_open(chromium, image_id)
        _press(chromium, "r")
        _await_saved(chromium)
        assert not chromium.find_elements(By.CSS_SELECTOR, "[onerror], [onload], script:not([src]), h1 *, img[src=x]")
        assert _console(chromium) == []
    finally:
        server.stop()
        serving.join()
    assert corrections.ids() == [image_id]


def _console(page: webdriver.Chrome) -> list[str]:
    """What the console complained about since it was last asked."""
    entries = page.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


def _open(page: webdriver.Chrome, served: Served) -> None:
    page.get(served.server.address)
    _await_open(page, "one")


def _await_open(page: webdriver.Chrome, image_id: str) -> None:
    """Wait for an image to be shown."""
    _until(page, lambda: page.find_element(By.ID, "id").text == image_id)


def _await_saved(page: webdriver.Chrome) -> None:
    _until(page, lambda: page.find_element(By.ID, "saving").get_attribute("data-state") == "saved")


def _until(page: webdriver.Chrome, holds: Callable[[], bool]) -> None:
    WebDriverWait(page, 60, poll_frequency=0.05).until(lambda _: holds())


def _press(page: webdriver.Chrome, keys: str) -> None:
    """Keys, not into any field."""
    page.find_element(By.ID, "canvas")
    page.execute_script("document.getElementById('canvas').focus()")
    ActionChains(page).send_keys(keys).perform()


def _drag(page: webdriver.Chrome, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Draw with the mouse from the middle of one pixel of the mask to that of another."""
    canvas = page.find_element(By.ID, "canvas")
    width, height = canvas.rect["width"], canvas.rect["height"]
    scale = min((width - 24) / SIZE[1], (height - 24) / SIZE[0])  # the image is fitted in, with a margin of 12

    def offset(pixel: tuple[int, int]) -> tuple[int, int]:
        return round((pixel[0] + 0.5 - SIZE[1] / 2) * scale), round((pixel[1] + 0.5 - SIZE[0] / 2) * scale)

    actions = ActionChains(page, duration=20).move_to_element_with_offset(canvas, *offset(start)).click_and_hold()
    actions.move_to_element_with_offset(canvas, *offset(end)).release().perform()


def _listed(page: webdriver.Chrome) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, "#images li:not(.more-images, .earlier)")


def _verdict(page: webdriver.Chrome) -> str:
    return page.find_element(By.ID, "verdict").text


def _pictures(page: webdriver.Chrome) -> set[str]:
    """The addresses of the images that the page asked for."""
    script = "return performance.getEntriesByType('resource').map((e) => e.name).filter((e) => /picture|thumb/.test(e))"
    return set(page.execute_script(script))  # type: ignore[no-untyped-call]


def _contrast(page: webdriver.Chrome, element: WebElement) -> float:
    """Of the text of an element with what lies behind it, by WCAG 2."""
    lights = []
    for name in ("color", "background-color"):
        values = [float(value) / 255 for value in re.findall(r"[\d.]+", element.value_of_css_property(name))[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        lights.append(float(np.dot(linear, (0.2126, 0.7152, 0.0722))) + 0.05)
    return max(lights) / min(lights)
