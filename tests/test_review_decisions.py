"""The page of a review in Chromium records what people decide, and nothing else."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from review_page import (
    Served,
    await_open,
    await_saved,
    brush,
    console,
    drag,
    listed,
    open_page,
    press,
    until,
    verdict,
)
from review_run import CLASSES, IDS, build_run, disc_along, every_value, open_session
from tag2mask.data import read_mask, write_mask
from tag2mask.data.corrections import CorrectionsFolder

pytestmark = pytest.mark.browser

SHOWN = """
    const texts = (node, selector) => [...(node?.querySelectorAll(selector) ?? [])].map((each) => each.textContent)
    const row = document.querySelector("#images [aria-current]")
    return [
        ...texts(document, "#id, #verdict"), texts(document, "#tags [aria-pressed=true]"), ...texts(row, ".name"),
        texts(row, ".one, .changed"), ...texts(row, ".state"),
    ]
"""
"""ID, verdict and tags of the open image, and the same of its row in the list."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return build_run(tmp_path)


def test_a_drawing_that_is_undone_is_not_a_correction(page: webdriver.Chrome, run: Path) -> None:
    drag(page, (20, 30), (20, 30))
    undo(page)
    assert verdict(page) == "undecided"
    drag(page, (20, 30), (50, 30))
    await_saved(page)
    assert decisions(run) == {"one": "corrected"}
    undo(page)  # withdraws what is stored
    await_saved(page)
    assert verdict(page) == "undecided" and decisions(run) == {}
    undo(page, again=True)
    await_saved(page)
    assert decisions(run) == {"one": "corrected"}
    undo(page)
    press(page, "u")  # there is nothing to undo any more
    assert verdict(page) == "undecided"
    press(page, "f")
    page.find_element("css selector", f"[data-class='{every_value(0)[30, 20]}']").click()
    drag(page, (20, 30), (20, 30))  # fills a region with its own class
    press(page, "a")
    await_open(page, IDS[1])
    await_saved(page)
    assert decisions(run) == {"one": "accepted"}
    press(page, "kb")
    await_open(page, "one")
    drag(page, (20, 30), (50, 30))
    await_saved(page)
    assert decisions(run) == {"one": "corrected"}
    undo(page)
    await_saved(page)
    assert verdict(page) == "✓ accepted" and decisions(run) == {"one": "accepted"}
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), every_value(0))
    press(page, "u")
    until(page, lambda: verdict(page) == "undecided")
    press(page, "r")
    await_open(page, IDS[1])
    press(page, "k")
    await_open(page, "one")
    drag(page, (20, 30), (50, 30))
    undo(page)
    await_saved(page)
    assert verdict(page) == "✕ rejected" and decisions(run) == {"one": "rejected"}


def test_a_mask_with_a_damaged_decision_is_not_lost(page: webdriver.Chrome, run: Path) -> None:
    drag(page, (20, 30), (50, 30))
    await_saved(page)
    drawn = read_mask(run / "corrections/one.png")
    (run / "corrections/one.json").write_text("{")
    page.refresh()
    until(page, lambda: "could not be read" in page.find_element("id", "trouble").text)
    await_open(page, "one")
    drag(page, (20, 10), (50, 10))
    undo(page)
    await_saved(page)
    assert verdict(page) == "✎ corrected" and decisions(run) == {"one": "corrected"}
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), drawn)
    (run / "corrections/one.json").write_text("{")
    page.refresh()
    await_open(page, "one")
    drag(page, (20, 10), (50, 10))
    await_saved(page)
    press(page, "u")
    until(page, lambda: "undone" in page.find_element("id", "note").text)
    await_saved(page)
    assert decisions(run) == {"one": "corrected"}
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), drawn)


def test_a_decision_ends_the_strokes_that_can_be_undone(page: webdriver.Chrome, run: Path) -> None:
    for index in range(1, len(IDS)):
        open_session(run).delete_mask(index, "rejected")
    page.refresh()
    await_open(page, "one")
    for key, words in (("a", "✎ corrected"), ("r", "✕ rejected")):  # the only undecided image stays open
        drag(page, (20, 30), (50, 30))
        await_saved(page)
        drawn = read_mask(run / "corrections/one.png")
        press(page, key)
        until(page, lambda: "No undecided image" in page.find_element("id", "note").text)
        await_open(page, "one")
        undo(page)
        await_saved(page)
        assert verdict(page) == words and decisions(run)["one"] == words[2:]
        if key == "a":
            np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), drawn)
        drag(page, (20, 10), (50, 10))  # later strokes are undone to the decision
        await_saved(page)
        assert decisions(run)["one"] == "corrected"
        undo(page)
        await_saved(page)
        assert verdict(page) == words and decisions(run)["one"] == words[2:]
    press(page, "u")
    until(page, lambda: verdict(page) == "✎ corrected")
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), drawn)


def test_a_mask_that_cannot_be_read_ahead_says_so(page: webdriver.Chrome, run: Path, served: Served) -> None:
    (run / f"masks/{IDS[1]}.png").write_bytes(b"cut off")
    session, asked, answered = served.session, threading.Event(), threading.Event()
    labels, start, opened = session.labels, session.start, []

    def late(index: int, name: str, long_side: int | None = None) -> np.ndarray:
        if (index, long_side) == (1, None):
            asked.set()
            answered.wait(30)
        return labels(index, name, long_side)

    session.labels = late  # type: ignore[method-assign]
    session.start = lambda index: (opened.append(index), start(index))[1]  # type: ignore[method-assign]
    page.refresh()
    await_open(page, "one")
    assert asked.wait(30)
    press(page, "j")  # while its mask is loaded ahead
    until(page, lambda: opened.count(1) == 2)
    time.sleep(0.5)  # the page has the details
    answered.set()
    await_open(page, IDS[1])
    assert f"{IDS[1]}.png" in page.find_element("id", "trouble").text
    press(page, "a")
    until(page, lambda: "no mask to accept" in page.find_element("id", "note").text)
    await_saved(page)
    assert decisions(run) == {}


def test_a_mask_that_changes_after_it_was_loaded_ahead_is_loaded_again(page: webdriver.Chrome, run: Path) -> None:
    until(page, lambda: loaded(page, "images/1/labels/mask"))
    write_mask(run / f"masks/{IDS[1]}.png", every_value(77))
    press(page, "j")
    await_open(page, IDS[1])
    press(page, "a")
    await_open(page, "turned")
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / f"corrections/{IDS[1]}.png"), every_value(77))


def test_an_image_that_is_cut_off_is_rejected(page: webdriver.Chrome, run: Path) -> None:
    open_session(run).save_mask(1, "corrected", every_value(7))
    path = run.parent / f"data/{IDS[1]}.jpg"
    path.write_bytes(path.read_bytes()[:-400])  # the header is complete
    page.refresh()
    await_open(page, "one")
    press(page, "j")
    await_open(page, IDS[1])
    assert "truncated" in page.find_element("id", "unreadable").text
    press(page, "a")
    assert "cannot be read" in page.find_element("id", "note").text
    press(page, "r")
    await_open(page, "turned")
    await_saved(page)
    assert decisions(run) == {IDS[1]: "rejected"}
    press(page, "u")
    await_open(page, IDS[1])
    until(page, lambda: verdict(page) == "✎ corrected")
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / f"corrections/{IDS[1]}.png"), every_value(7))


def test_a_mask_of_an_image_that_is_gone_is_not_lost(page: webdriver.Chrome, run: Path) -> None:
    open_session(run).save_mask(1, "corrected", every_value(7))
    (run.parent / f"data/{IDS[1]}.jpg").unlink()
    page.refresh()
    await_open(page, "one")
    press(page, "j")
    await_open(page, IDS[1])
    for key in "ru":
        press(page, key)
        assert "would be lost" in page.find_element("id", "note").text
        page.execute_script("document.getElementById('note').textContent = ''")
    assert verdict(page) == "✎ corrected" and decisions(run) == {IDS[1]: "corrected"}
    np.testing.assert_array_equal(read_mask(run / f"corrections/{IDS[1]}.png"), every_value(7))


def test_an_image_whose_picture_does_not_come_leaves_the_page_where_it_is(page: webdriver.Chrome) -> None:
    page.execute_cdp_cmd("Network.enable", {})
    page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/picture*"]})  # as if the review had ended
    listed(page)[4].find_element("tag name", "button").click()
    until(page, lambda: "The program does not answer" in page.find_element("id", "trouble").text)
    await_open(page, "one")
    page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    listed(page)[4].find_element("tag name", "button").click()
    await_open(page, "last")
    console(page)


def test_two_fingers_move_and_zoom_and_do_not_paint(page: webdriver.Chrome, run: Path) -> None:
    fitted = percent(page)
    for tool in "bf":
        press(page, f"{tool}z")
        until(page, lambda: percent(page) == fitted)
        fingers(page, [[(300, 200)], [(305, 205), (400, 205)], [(200, 205), (500, 205)], [(500, 205)], []])
        until(page, lambda: percent(page) > 2 * fitted)
    page.find_element("css selector", "[data-layer=cam-pot]").click()
    fingers(page, [[(300, 200)], [(300, 200), (400, 205)], [(350, 205), (360, 205)], []])
    pressed = page.find_element("css selector", "#layers [aria-pressed=true]")
    assert pressed.get_attribute("data-layer") == "cam-pot"  # still shown
    press(page, "j")
    await_open(page, IDS[1])
    await_saved(page)
    assert decisions(run) == {}
    press(page, "b")
    fingers(page, [[(300, 200)], [(320, 220)], []])
    await_saved(page)
    assert decisions(run) == {IDS[1]: "corrected"}


def test_the_hand_drags_the_image(page: webdriver.Chrome, run: Path) -> None:
    press(page, "d")
    drag(page, (20, 20), (60, 50))
    fingers(page, [[(300, 200)], [(320, 260)], []])
    press(page, Keys.ENTER)  # paints nothing either
    assert verdict(page) == "undecided"
    press(page, "b")
    before = every_value(0)
    drag(page, (60, 50), (60, 50))  # where the pixel 20, 20 is now
    await_saved(page)
    changed = np.argwhere(read_mask(run / "corrections/one.png") != before)
    assert np.abs(changed.mean(axis=0) - (20, 20)).max() < 12 and changed.max(axis=0)[1] < 40


def test_a_series_of_presses_decides_what_was_shown_alone(page: webdriver.Chrome, run: Path) -> None:
    press(page, "a" * 8 + "r" * 8)  # as from a key that bounces
    await_open(page, IDS[1])
    await_saved(page)
    assert decisions(run) == {"one": "accepted"}
    button = page.find_element("css selector", "[data-do=accept]")
    actions = ActionChains(page, duration=0)
    for _ in range(8):
        actions.click(button)
    actions.perform()
    await_open(page, "turned")
    await_saved(page)
    assert decisions(run) == {"one": "accepted", IDS[1]: "accepted"}
    held = """
        const [key, bubbles, cancelable] = [arguments[0], true, true]
        const press = (repeat) => new KeyboardEvent("keydown", {key, repeat, bubbles, cancelable})
        const target = document.querySelector(arguments[1])
        target.focus()
        return [false, true].map((repeat) => target.dispatchEvent(press(repeat)))
    """
    assert page.execute_script(held, "Enter", "[data-do=reject]") == [True, False]  # a held Enter clicks once
    page.execute_script("for (let n = 0; n < 99; n++) document.querySelector('[data-do=reject]').click()")
    await_open(page, "broken")
    page.execute_script(held, "r", "#canvas")
    await_open(page, "last")
    press(page, "a")  # nothing follows
    await_saved(page)
    await_open(page, "last")
    press(page, "ar")
    await_saved(page)
    expected = {"one": "accepted", IDS[1]: "accepted", "turned": "rejected", "broken": "rejected", "last": "accepted"}
    assert decisions(run) == expected


def test_a_mask_that_is_not_shown_is_not_decided(page: webdriver.Chrome, run: Path) -> None:
    for key, layer in (("a", "cam-pot"), ("r", "image")):
        page.find_element("css selector", f"[data-layer={layer}]").click()
        press(page, key)
        until(page, lambda: "press again" in page.find_element("id", "note").text)
        assert page.find_element("css selector", "#layers [aria-pressed=true]").get_attribute("data-layer") == "edit"
        await_open(page, "one")
        await_saved(page)
    assert decisions(run) == {}
    press(page, "a")
    await_open(page, IDS[1])
    await_saved(page)
    assert decisions(run) == {"one": "accepted"}


def test_a_number_key_is_the_same_class_on_every_image(page: webdriver.Chrome) -> None:
    for image_id in (*IDS[:3], "last"):  # with other tags each
        page.get(f"{page.current_url.partition('#')[0]}#{image_id}")
        page.refresh()
        await_open(page, image_id)
        for key in ("1", "2", "9"):
            press(page, key)
            chosen = page.find_element("css selector", "#classes [aria-pressed=true]")
            assert chosen.get_attribute("data-class") == key
            assert chosen.text.split("\n")[0] == CLASSES[int(key) - 1] and chosen.text.endswith(key)
        assert not page.find_elements("css selector", "[data-class='20'] kbd")


def test_the_brush_keeps_its_size_on_the_screen(page: webdriver.Chrome, run: Path) -> None:
    expected = every_value(0)
    press(page, "1]]]]]]]")  # as large as the image
    fitted = brush(page)
    drag(page, (20, 30), (50, 41))
    expected = disc_along(expected, (20, 30), (50, 41), fitted, 1)
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    press(page, "++++")
    until(page, lambda: 3 < fitted / brush(page) < 5)
    page.execute_script("document.getElementById('canvas').focus()")
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
    press(page, "2" + Keys.ENTER + Keys.ENTER)  # from the middle, half a brush to the left
    size = brush(page)
    at = (40 - (size + 1) // 2, 30)
    expected = disc_along(expected, at, at, size, 2)
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)


def test_a_review_that_has_ended_says_so_and_the_page_keeps_its_drawing(
    chromium: webdriver.Chrome, served: Served, run: Path
) -> None:
    page = chromium
    open_page(page, served)
    served.stop()
    for key in "jna":
        press(page, key)
        until(page, lambda: "The program does not answer" in page.find_element("id", "trouble").text)
        await_open(page, "one")
        page.execute_script("document.getElementById('trouble').textContent = ''")
    current = page.find_element("css selector", "#images [aria-current]")
    assert current.text.startswith("one") and verdict(page) == "✓ accepted"  # not saved, but kept
    drag(page, (20, 30), (50, 30))
    undo(page)
    undo(page, again=True)
    assert verdict(page) == "✎ corrected"
    until(page, lambda: "Not saved: The program does not answer" in page.find_element("id", "fault").text)
    assert decisions(run) == {}
    console(page)


def test_the_list_agrees_with_the_open_image(
    page: webdriver.Chrome, run: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def agreed(image_id: str, words: str, tags: tuple[int, ...]) -> None:
        names = [CLASSES[tag - 1] for tag in tags]
        changed = ["(changed)"] if "tags changed" in words else []
        state = words.partition(",")[0].replace("undecided", "")
        expected = [image_id, words, names, image_id, [*names, *changed], state]
        until(page, lambda: page.execute_script(SHOWN) == expected)
        assert page.title.startswith(f"{image_id} · ")

    monkeypatch.setattr("tag2mask.review.routes.PAGE", 2)
    page.refresh()
    agreed("one", "undecided", (1, 20))
    page.find_element("css selector", "[data-tag='1']").click()
    agreed("one", "undecided, tags changed", (20,))  # at once, before it is saved
    page.find_element("id", "own-tags").click()
    agreed("one", "undecided", (1, 20))
    await_open(page, "one")
    press(page, "a")
    await_open(page, IDS[1])
    press(page, "k")
    agreed("one", "✓ accepted", (1, 20))
    open_session(run).delete_mask(2, "rejected")  # by another page
    for image_id in (IDS[1], "turned"):
        press(page, "j")
        await_open(page, image_id)
    agreed("turned", "✕ rejected", (1,))
    page.find_element("id", "find").send_keys("r")  # filtered, the open image stays
    until(page, lambda: page.find_element("id", "found").text == "3 images")
    agreed("turned", "✕ rejected", (1,))
    page.find_element("id", "find").send_keys(Keys.BACKSPACE)
    until(page, lambda: page.find_element("id", "found").text == "5 images")
    agreed("turned", "✕ rejected", (1,))
    page.find_element("id", "find").send_keys("one")  # the open image is not in the list: the first one is opened
    agreed("one", "✓ accepted", (1, 20))
    press(page, "u")
    until(page, lambda: verdict(page) == "undecided")
    agreed("one", "undecided", (1, 20))
    page.find_element("id", "find").send_keys(Keys.BACKSPACE * 3)
    until(page, lambda: page.find_element("id", "found").text == "5 images")
    agreed("one", "undecided", (1, 20))
    (run / "corrections").rename(run / "kept")
    (run / "corrections").write_text("in the way")
    drag(page, (10, 10), (12, 10))
    until(page, lambda: "not saved" in page.find_element("css selector", "#images [aria-current]").text)
    page.find_element("id", "find").send_keys("o")  # what could not be saved is still marked
    until(page, lambda: "not saved" in page.find_element("css selector", "#images [aria-current]").text)
    (run / "corrections").unlink()
    page.find_element("id", "retry").click()
    await_saved(page)
    agreed("one", "✎ corrected", (1, 20))
    page.refresh()
    agreed("one", "✎ corrected", (1, 20))
    console(page)


def test_a_long_list_holds_few_rows(page: webdriver.Chrome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.review.routes.PAGE", 1)
    page.refresh()
    await_open(page, "one")
    for key, image_id in (*zip("jjjj", IDS[1:], strict=True), *zip("kkkk", IDS[-2::-1], strict=True)):
        press(page, key)
        await_open(page, image_id)
        until(page, lambda: len(listed(page)) <= 3)
    assert verdict(page) == "undecided"


def decisions(run: Path) -> dict[str, str | None]:
    """The stored verdicts by ID."""
    folder = CorrectionsFolder(run / "corrections", CLASSES)
    stored = {image_id: folder.decision(image_id) for image_id in folder.ids()}
    return {image_id: decision.verdict for image_id, decision in stored.items() if decision}


def loaded(page: webdriver.Chrome, end: str) -> bool:
    """Whether the page has loaded an address with this end."""
    names = page.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    return any(name.endswith(end) for name in names)


def undo(page: webdriver.Chrome, *, again: bool = False) -> None:
    """Undo a stroke, or redo it."""
    actions = ActionChains(page).key_down(Keys.CONTROL)
    if again:
        actions.key_down(Keys.SHIFT)
    actions.send_keys("z").key_up(Keys.SHIFT).key_up(Keys.CONTROL).perform()


def fingers(page: webdriver.Chrome, frames: list[list[tuple[int, int]]]) -> None:
    """Touch the canvas: the points of all fingers in each frame, relative to its corner."""
    corner = page.find_element("id", "canvas").rect
    down = 0
    for points in frames:
        touched = [{"x": corner["x"] + x, "y": corner["y"] + y, "id": number} for number, (x, y) in enumerate(points)]
        kind = "touchStart" if len(points) > down else "touchEnd" if len(points) < down else "touchMove"
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})
        down = len(points)


def percent(page: webdriver.Chrome) -> int:
    """The zoom."""
    return int(page.find_element("id", "zoom").text.removesuffix(" %"))
