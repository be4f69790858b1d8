"""The tools of the review that help to correct: each against an independent form of its rule, and in the page."""

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from review_page import Served, open_page, press, until
from review_run import SIZE, build_run
from tag2mask.data import read_mask, write_mask
from tag2mask.data.cam_files import CamFile, write_cam

pytestmark = pytest.mark.browser

HEIGHT, WIDTH = SIZE


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("review")).parent


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    """The image `one` has a bright square on a dark ground, and a mask with a hole and a speck in it."""
    run = Path(copytree(built, tmp_path / "review")) / "run"
    Image.fromarray(photo()).save(run.parent / "data/one.jpg", quality=100, subsampling=0)
    write_mask(run / "masks/one.png", mask())
    cam = np.zeros((1, 15, 20), dtype=np.float16)
    cam[0, 4:11, 5:13] = 0.5
    cam[0, 5:9, 6:11] = 0.9
    write_cam(run / "cams/pot/one.npz", CamFile(np.array([1], dtype=np.int32), cam, (HEIGHT, WIDTH)))
    return run


@pytest.fixture
def page(chromium: webdriver.Chrome, run: Path) -> Iterator[webdriver.Chrome]:
    served = Served(run)
    chromium.get("about:blank")
    open_page(chromium, served)
    yield chromium
    served.stop()


def photo() -> np.ndarray:
    pixels = np.full((HEIGHT, WIDTH, 3), 80, dtype=np.uint8)
    pixels[15:45, 20:60] = 190
    return pixels


def mask() -> np.ndarray:
    values = np.zeros(SIZE, dtype=np.uint8)
    values[20:40, 25:50] = 1
    values[28:30, 30:33] = 0  # a hole
    values[5, 70] = 1  # a speck
    return values


def test_clean_removes_what_is_small_and_nothing_else(page: webdriver.Chrome) -> None:
    rng = np.random.default_rng(0)
    for least in (2, 6, 15):
        noise = ndimage.gaussian_filter(rng.normal(size=(5, 40, 50)), (0, 1.5, 1.5))
        before = np.array([0, 1, 2, 7, 255], dtype=np.uint8)[noise.argmax(0)]
        found = _call(page, "clean", "cleaned", before.ravel(), 50, 40, least, take="result.pixels")
        after = np.array(found, dtype=np.uint8).reshape(before.shape)
        assert (after[before == 255] == 255).all() and (before == 255).sum() > 100
        for value in (0, 1, 2, 7):
            pieces, count = ndimage.label(after == value)
            largest = max(areas(before == value))
            for piece in range(1, count + 1):
                place = pieces == piece
                old = areas((before == value) & place)
                assert place.sum() >= least or max(old) == largest, "a small piece is left"
        for value in (0, 1, 2, 7):  # pieces that are large enough keep their pixels
            pieces, count = ndimage.label(before == value)
            for piece in range(1, count + 1):
                place = pieces == piece
                if place.sum() >= least or place.sum() == max(areas(before == value)):
                    assert (after[place] == value).all()


def test_a_piece_takes_the_class_along_most_of_its_border(page: webdriver.Chrome) -> None:
    before = np.array([[0, 0, 2, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 0], [2, 2, 2, 1, 1]])
    found = _call(page, "clean", "cleaned", before.ravel(), 5, 5, 2, take="result.pixels")
    expected = before.copy()
    expected[0, 2], expected[3, 4] = 0, 1
    np.testing.assert_array_equal(np.array(found).reshape(5, 5), expected)


def test_clean_neither_removes_nor_spreads_what_is_not_sure(page: webdriver.Chrome) -> None:
    upper = ("2 2 255 0 0 0", "0 0 0 255 255 0", "1 1 0 1 255 0")
    lower = ("7 7 0 255 255 255", "7 7 0 255 2 255", "7 7 0 255 255 255")
    before = np.array([row.split() for row in (*upper, *lower)]).astype(np.uint8)
    found = _call(page, "clean", "cleaned", before.ravel(), 6, 6, 2, take="result.pixels")
    expected = before.copy()
    expected[2, 3] = 0  # not 255, although most of its border is
    expected[4, 4] = 255  # it has no other neighbour
    np.testing.assert_array_equal(np.array(found).reshape(6, 6), expected)


def test_a_threshold_is_that_of_the_enlarged_cam(page: webdriver.Chrome) -> None:
    rng = np.random.default_rng(1)
    heat = rng.integers(0, 256, (6, 9), dtype=np.uint8)
    before = rng.integers(0, 3, (31, 40), dtype=np.uint8)
    large = torch.nn.functional.interpolate(torch.from_numpy(heat)[None, None].double(), (31, 40), mode="bilinear")
    expected = before.copy()
    expected[before == 1] = 0
    expected[large[0, 0].numpy() >= 0.4 * 255] = 1
    given = {"width": 40, "height": 31, "pixels": before.ravel().tolist()}
    cam = {"width": 9, "height": 6, "pixels": heat.ravel().tolist()}
    found = _call(page, "cam", "thresholded", given, cam, 0.4, 1)
    np.testing.assert_array_equal(np.array(found).reshape(31, 40), expected)


def test_the_wand_is_a_labelled_region(page: webdriver.Chrome) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(30, 40, 3)), (2, 2, 0))
    pixels = np.clip(128 + 400 * noise, 0, 255).astype(np.uint8)
    picture = {"width": 40, "height": 30, "data": np.dstack([pixels, np.full((30, 40), 255)]).ravel().tolist()}
    alike = (np.abs(pixels.astype(int) - pixels[11, 17]) <= 45).all(2)
    pieces, _ = ndimage.label(alike)
    found = _call(page, "wand", "similar", picture, {"x": 17, "y": 11}, 45)
    np.testing.assert_array_equal(np.array(found).reshape(30, 40), pieces == pieces[11, 17])
    assert 10 < np.sum(found) < 1100


def test_the_inside_of_a_lasso_is_where_its_winding_number_is_not_zero(page: webdriver.Chrome) -> None:
    points = np.random.default_rng(3).integers(-3, 34, (9, 2)) * 1.0
    rows, columns = np.indices((30, 40))
    winding = np.zeros((30, 40))
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        angle = np.arctan2(y1 - rows - 0.01, x1 - columns) - np.arctan2(y0 - rows - 0.01, x0 - columns)
        winding += (angle + np.pi) % (2 * np.pi) - np.pi
    line = [{"x": x, "y": y} for x, y in points]
    found = _call(page, "lasso", "inside", line, {"left": 0, "top": 0, "right": 40, "bottom": 30})
    inside = np.abs(winding) > 1
    assert 50 < inside.sum() < 1100
    assert (np.array(found).reshape(30, 40) != inside).sum() <= 12  # centres on the line


def test_a_stroke_of_the_edge_brush_ends_at_the_edge(page: webdriver.Chrome) -> None:
    pixels = np.clip(photo() + np.random.default_rng(4).normal(0, 12, (HEIGHT, WIDTH, 3)), 0, 255).astype(int)
    picture = {"width": WIDTH, "height": HEIGHT, "data": np.dstack([pixels, np.full(SIZE, 255)]).ravel().tolist()}
    path = [{"x": 30, "y": 22}, {"x": 50, "y": 22}]  # reaches over the upper edge of the square, at row 15
    found = _call(page, "edge_brush", "snapped", picture, path, 30, take="result", callback=True)
    selected = np.array(found).reshape(SIZE)
    assert selected[:14].sum() == 0 and selected[16:24, 32:49].all()
    rows, columns = np.indices(SIZE)
    away = np.hypot(columns - np.clip(columns, 30, 50), rows - 22)
    assert not selected[away > 15.5].any()  # never more than the stroke
    assert selected[away < 4.5].all()  # the middle third in any case


def test_clean_and_its_slider_are_one_step(page: webdriver.Chrome, run: Path) -> None:
    press(page, "x")  # 0.1 % of 4800 pixels are 4.8: the speck alone
    expected = mask()
    expected[5, 70] = 0
    _saved(page, run, expected)
    assert page.find_element(By.ID, "note").text == "1 piece removed."
    _slide(page, "least", 5)  # 0.5 %: the hole of 6 pixels, too
    expected[28:30, 30:33] = 1
    _saved(page, run, expected)
    assert page.find_element(By.ID, "note").text == "2 pieces removed."
    _slide(page, "least", 0)
    _back(page, run)
    _slide(page, "least", 5)
    _saved(page, run, expected)
    _undone(page, run)


def test_the_threshold_of_a_cam_by_keyboard(page: webdriver.Chrome, run: Path) -> None:
    press(page, "1p")
    slider = page.switch_to.active_element
    assert slider.get_attribute("id") == "threshold" and slider.is_enabled()
    assert "class 01" in page.find_element(By.ID, "threshold-of").text
    slider.send_keys(Keys.ARROW_RIGHT)  # from 0.4 to 0.45
    until(page, lambda: (run / "corrections/one.png").is_file())
    first = read_mask(run / "corrections/one.png")
    slider.send_keys(*[Keys.ARROW_RIGHT] * 6)  # to 0.75
    until(page, lambda: (read_mask(run / "corrections/one.png") == 1).sum() < (first == 1).sum())
    after = read_mask(run / "corrections/one.png")
    assert (after[22:34, 26:42] == 1).all() and (after[:15] == 0).all() and (first[19:41, 23:48] == 1).all()
    _undone(page, run)
    press(page, "0p")
    assert not page.find_element(By.ID, "threshold").is_enabled()
    until(page, lambda: "changes a class: select one" in page.find_element(By.ID, "note").text)
    press(page, "7p")  # of no tag
    until(page, lambda: "no CAM of class 07" in page.find_element(By.ID, "note").text)


def test_the_wand_follows_its_tolerance(page: webdriver.Chrome, run: Path) -> None:
    press(page, "2w")
    _drag(page, [(22, 17)])
    square = mask()
    square[15:45, 20:60] = 2
    _saved(page, run, square)
    _slide(page, "tolerance", 128)  # the ground differs by 110
    _saved(page, run, np.full(SIZE, 2, dtype=np.uint8))
    _slide(page, "tolerance", 24)
    _saved(page, run, square)
    _undone(page, run)


def test_the_edge_brush_in_the_page(page: webdriver.Chrome, run: Path) -> None:
    press(page, "1q")
    _slide(page, "size", 11)
    _drag(page, [(30, 20), (50, 20)])
    until(page, lambda: (run / "corrections/one.png").is_file())
    after = read_mask(run / "corrections/one.png")
    assert (after[15:20, 28:52] == 1).all() and not after[6:14].any()
    _undone(page, run)


def test_the_lasso_by_mouse_keyboard_and_touch(page: webdriver.Chrome, run: Path) -> None:
    box = mask()
    box[5:15, 5:20] = 2
    press(page, "2l")
    _drag(page, [(5, 5), (19, 5), (19, 14), (5, 14)])  # freely
    _saved(page, run, box)
    _undone(page, run)
    for corner in ((5, 5), (19, 5), (19, 14), (5, 14), (5, 5)):  # from point to point
        _drag(page, [corner])
    _saved(page, run, box)
    _undone(page, run)
    _drag(page, [(5, 5)])
    press(page, Keys.ESCAPE)  # drops the line
    for keys in ((), (Keys.ARROW_RIGHT,), (Keys.ARROW_DOWN,), (Keys.ARROW_LEFT, Keys.ARROW_UP)):
        ActionChains(page).key_down(Keys.SHIFT).send_keys(*keys).key_up(Keys.SHIFT).send_keys(Keys.ENTER).perform()
    size = int(page.find_element(By.ID, "size-shown").text.split()[0])
    triangle, far = mask(), int(size / 2 + 0.5)  # the brush moves by half of its size, from the middle
    for row in range(far + 1):
        triangle[30 + row, 40 + row : 41 + far] = 2
    _saved(page, run, triangle)
    _drag(page, [(5, 5)])
    _undo(page)  # drops the line alone
    _undone(page, run)
    _drag(page, [(5, 5), (19, 5), (19, 14), (5, 14)], kind="touch")
    _saved(page, run, box)


def test_two_fingers_drop_what_the_first_began(page: webdriver.Chrome, run: Path) -> None:
    box = page.find_element(By.ID, "canvas").rect
    start = [{"x": box["x"] + 300, "y": box["y"] + 200, "id": 0}]
    both = [*start, {"x": box["x"] + 400, "y": box["y"] + 260, "id": 1}]
    for key in "qwl":
        press(page, key)
        for kind, points in (("touchStart", start), ("touchStart", both), ("touchEnd", [])):
            page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    _drag(page, [(5, 5), (19, 5), (19, 14)])  # a new line, which does not go on from there
    triangle = np.zeros(SIZE, dtype=bool)
    for row in range(10):
        triangle[5 + row, 5 + int(np.ceil(14 * row / 9)) : 20] = True
    until(page, lambda: (run / "corrections/one.png").is_file())
    after = read_mask(run / "corrections/one.png")
    assert (after[triangle] == 1).all() and ((after != mask()) & ~triangle).sum() < 10


def test_the_tools_have_names_and_states(page: webdriver.Chrome) -> None:
    for key, tool in (("q", "edge"), ("l", "lasso"), ("w", "wand"), ("b", "brush")):
        press(page, key)
        pressed = page.find_elements(By.CSS_SELECTOR, "[data-tool][aria-pressed=true]")
        assert [button.get_attribute("data-tool") for button in pressed] == [tool]
        assert page.find_element(By.ID, "tolerance").is_displayed() == (tool == "wand")
    for name in ("least", "threshold"):
        assert page.execute_script("return arguments[0].labels[0].textContent", page.find_element(By.ID, name)).strip()


def areas(there: np.ndarray) -> list[int]:
    pieces, _ = ndimage.label(there)
    return np.bincount(pieces.ravel())[1:].tolist()


def _call(
    page: webdriver.Chrome, module: str, name: str, *arguments: Any, take: str = "result", callback: bool = False
) -> Any:
    """The result of a function of `static/tools`, called with lists as byte arrays."""
    script = f"""
    const [given, done] = arguments;
    const values = JSON.parse(given).map((value) => {{
      if (Array.isArray(value) && typeof value[0] === 'number') return Uint8Array.from(value);
      for (const key of ['pixels', 'data']) if (value?.[key]) value[key] = Uint8Array.from(value[key]);
      return value;
    }});
    if ({str(callback).lower()}) values.push(() => false);
    import(`${{location.href.split('#')[0]}}static/tools/{module}.js`).then((module) => {{
      const result = module.{name}(...values);
      done(Array.from({take}));
    }}, (error) => done(String(error)));
    """
    given = [value.tolist() if isinstance(value, np.ndarray) else value for value in arguments]
    return page.execute_async_script(script, json.dumps(given))  # type: ignore[no-untyped-call]


def _saved(page: webdriver.Chrome, run: Path, expected: np.ndarray) -> None:
    """Wait until the correction of the image is as expected."""
    file = run / "corrections/one.png"
    until(page, lambda: file.is_file() and bool((read_mask(file) == expected).all()))


def _undo(page: webdriver.Chrome) -> None:
    ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()


def _undone(page: webdriver.Chrome, run: Path) -> None:
    """Undo, and wait until the correction is gone."""
    _undo(page)
    _back(page, run)


def _back(page: webdriver.Chrome, run: Path) -> None:
    """Wait until the correction is gone, because the mask is that of the run."""
    until(page, lambda: not (run / "corrections/one.png").exists() and not (run / "corrections/one.json").exists())


def _slide(page: webdriver.Chrome, name: str, value: int) -> None:
    page.execute_script(
        "const slider = document.getElementById(arguments[0]); slider.value = arguments[1];"
        "slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change'))",
        name,
        value,
    )


def _drag(page: webdriver.Chrome, path: list[tuple[int, int]], kind: str = "mouse") -> None:
    """Press on the middle of the first pixel of the mask, and drag to the others."""
    box = page.find_element(By.ID, "canvas").rect
    scale = min((box["width"] - 24) / WIDTH, (box["height"] - 24) / HEIGHT)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    places = [
        (round(middle[0] + (x + 0.5 - WIDTH / 2) * scale), round(middle[1] + (y + 0.5 - HEIGHT / 2) * scale))
        for x, y in path
    ]
    actions = ActionBuilder(page, mouse=PointerInput(kind, kind), duration=20)
    actions.pointer_action.move_to_location(*places[0]).pointer_down()
    for place in places[1:]:
        actions.pointer_action.move_to_location(*place)
    actions.pointer_action.pointer_up()
    actions.perform()
