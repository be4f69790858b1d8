"""The page of a review in Chromium: browse, draw, decide, restart, and find what was drawn, pixel for pixel."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from selenium.webdriver.support.ui import Select

from review_page import (
    Served,
    await_open,
    await_saved,
    brush,
    console,
    contrast,
    drag,
    listed,
    open_page,
    pictures,
    press,
    until,
    verdict,
)
from review_run import CLASSES, IDS, SIZE, build_run, disc_along, every_value, open_session
from tag2mask import review
from tag2mask.data import ImageItem, ImageSet, read_mask, write_mask
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.review import Server, Session
from tag2mask.runs.run_folder import RunFolder

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("review")).parent


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    return Path(copytree(built, tmp_path / "review")) / "run"


def test_the_browser_knows_every_property_of_the_style_sheet(page: webdriver.Chrome) -> None:
    text = (Path(review.__file__).parent / "static/style.css").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"[{;]\s*([a-z-]+)\s*:", text)))
    known = {name: page.execute_script("return CSS.supports(arguments[0], 'inherit')", name) for name in names}
    assert len(names) > 50 and [name for name, supported in known.items() if not supported] == []


def test_draw_restart_and_find_it_again(page: webdriver.Chrome, served: Served, run: Path) -> None:
    mask = every_value(0)
    page.find_element(By.CSS_SELECTOR, "[data-class='20']").click()
    press(page, "]]]")
    drag(page, (20, 30), (50, 40))
    expected = disc_along(mask, (20, 30), (50, 40), brush(page), 20)
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    press(page, "i[[[")  # 255, three sizes smaller
    assert brush(page) == 3
    drag(page, (70, 5), (70, 5))
    expected[4:7, 69:72] = 255
    press(page, "e")
    drag(page, (5, 55), (9, 55))
    expected[54:57, 4:11] = 0
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    assert verdict(page) == "✎ corrected"
    before = pictures(page)
    served.stop()

    again = Served(run)
    try:
        open_page(page, again)
        assert before and not before & pictures(page)  # other images may lie at the same indices now
        assert verdict(page) == "✎ corrected"
        assert page.find_element(By.CSS_SELECTOR, "#progress p").text == f"1 of {len(IDS)} decided"
        drag(page, (40, 58), (40, 58))  # what is drawn now goes on from what was found
        expected[57:60, 39:42] = 1
        await_saved(page)
        np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    finally:
        again.stop()


def test_accepting_by_keyboard_keeps_every_pixel(page: webdriver.Chrome, run: Path) -> None:
    press(page, "a")
    await_open(page, IDS[1])
    press(page, "a")
    await_open(page, "turned")
    press(page, "a")
    await_open(page, "broken")
    shown = page.find_element(By.ID, "unreadable")
    assert shown.is_displayed() and "not an image" in shown.text
    press(page, "r")
    await_open(page, "last")
    await_saved(page)
    kept = CorrectionsFolder(run / "corrections", CLASSES)
    for number, image_id in enumerate(IDS[:3]):  # every class and 255, one image turned by EXIF
        decision, path = kept.decision(image_id), kept.mask(image_id)
        assert decision is not None and decision.verdict == "accepted" and path is not None
        np.testing.assert_array_equal(read_mask(path), every_value(number))
    press(page, "u")  # nothing is decided here: back to the last decision, which is undone
    await_open(page, "broken")
    press(page, "k")
    await_open(page, "turned")
    press(page, "u")
    until(page, lambda: verdict(page) == "undecided")
    await_saved(page)
    assert [kept.decision(image_id) for image_id in ("turned", "broken", "last")] == [None] * 3
    assert kept.mask("one") is not None


def test_the_keyboards_brush_undo_and_reject(page: webdriver.Chrome, run: Path) -> None:
    mask = every_value(0)
    press(page, "1]")  # 5 pixels: a step of half of it is 3
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()  # 43, 30
    press(page, Keys.ENTER)
    for keys in ((Keys.ARROW_DOWN, Keys.ARROW_DOWN), (Keys.ARROW_LEFT,)):
        ActionChains(page).key_down(Keys.SHIFT).send_keys(*keys).key_up(Keys.SHIFT).perform()
    press(page, Keys.ENTER)
    down = disc_along(mask, (43, 30), (43, 36), 5, 1)
    expected = disc_along(down, (43, 36), (40, 36), 5, 1)
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    ActionChains(page).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    await_saved(page)
    assert not (run / "corrections/one.png").exists()  # back where it began
    ActionChains(page).key_down(Keys.CONTROL).key_down(Keys.SHIFT).send_keys("z").key_up(Keys.SHIFT).key_up(
        Keys.CONTROL
    ).perform()
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    press(page, "r")
    await_open(page, IDS[1])
    await_saved(page)
    assert not (run / "corrections/one.png").exists()
    press(page, "u")  # back to what was drawn, which the rejection had deleted
    await_open(page, "one")
    until(page, lambda: verdict(page) == "✎ corrected")
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    (run / "corrections/one.png").write_bytes(b"cut off")  # what cannot be fetched is not drawn over
    press(page, "j")
    await_open(page, IDS[1])
    press(page, "k")
    until(page, lambda: "one.png" in page.find_element(By.ID, "trouble").text)
    shown = [page.find_element(By.ID, name).is_displayed() for name in ("canvas", "unreadable")]
    assert shown == [False, True] and page.find_element(By.ID, "id").text == "one"
    press(page, "ar")
    press(page, "s")
    await_saved(page)
    assert (run / "corrections/one.png").read_bytes() == b"cut off"


def test_tags_fill_and_a_stage_taken_over(page: webdriver.Chrome, run: Path) -> None:
    kept = CorrectionsFolder(run / "corrections", CLASSES)
    press(page, "t")
    page.switch_to.active_element.send_keys(Keys.SPACE)  # the first tag of the image
    await_saved(page)
    assert kept.decision("one") == Decision(None, (CLASSES[19],), at=kept.decision("one").at)  # type: ignore[union-attr]
    assert page.switch_to.active_element.get_attribute("data-tag") == "1"
    field = page.find_element(By.ID, "other-tag")
    field.send_keys(CLASSES[6], Keys.ENTER)
    await_saved(page)
    decision = kept.decision("one")
    assert decision is not None and decision.tags == (CLASSES[6], CLASSES[19])
    field.send_keys(Keys.ESCAPE)
    page.find_element(By.CSS_SELECTOR, "[data-layer=cam-pot]").click()
    page.find_element(By.CSS_SELECTOR, "[data-class='20']").click()
    press(page, Keys.ENTER)  # the brush of class 20 is down while a stage is taken over, and lifted by that
    page.find_element(By.CSS_SELECTOR, "[data-layer=cam-pot]").click()
    press(page, "c")
    until(page, lambda: "is the mask now" in page.find_element(By.ID, "note").text)
    press(page, "")
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    assert page.find_element(By.ID, "readout").text.endswith(CLASSES[0])  # not painted on the way
    await_saved(page)
    regions = read_mask(run / "corrections/one.png")
    assert list(regions[30, [10, 40, 70]]) == [0, 1, 20]
    press(page, "fi")
    drag(page, (70, 30), (70, 30))
    await_saved(page)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), np.where(regions == 20, 255, regions))
    decision = kept.decision("one")
    assert decision is not None and (decision.verdict, decision.tags) == ("corrected", (CLASSES[6], CLASSES[19]))


def test_filters_stages_and_help(page: webdriver.Chrome) -> None:
    assert len(listed(page)) == len(IDS)
    assert CLASSES[19] in listed(page)[0].text  # a name with markup is text
    press(page, "a")
    await_open(page, IDS[1])
    page.refresh()  # the address names the image, whatever its ID is made of
    await_open(page, IDS[1])
    state = Select(page.find_element(By.ID, "state"))
    state.select_by_value("undecided")
    until(page, lambda: len(listed(page)) == len(IDS) - 1)
    state.select_by_value("")
    find = page.find_element(By.ID, "find")
    find.send_keys("東京")
    until(page, lambda: len(listed(page)) == 1)
    find.send_keys(Keys.BACKSPACE * 2)
    until(page, lambda: len(listed(page)) == len(IDS))
    page.find_element(By.ID, "canvas").send_keys("v")
    pressed = page.find_elements(By.CSS_SELECTOR, "#layers [aria-pressed=true]")
    assert [button.text for button in pressed] == ["Mask of the run"]
    press(page, "?")
    help_dialog = page.find_element(By.ID, "help")
    assert help_dialog.is_displayed() and "Paint" in help_dialog.text
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not help_dialog.is_displayed()
    for name in ("[data-tool=brush]", "[data-do=accept]", "#images [aria-current]"):
        button = page.find_element(By.CSS_SELECTOR, name)
        ActionChains(page).move_to_element(button).perform()
        assert contrast(page, button) > 4.5, name
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
    await_open(page, "last")
    until(page, lambda: [row.text.partition("\n")[0] for row in listed(page)] == ["last"])
    for image_id in reversed(IDS[:-1]):
        press(page, "k")
        await_open(page, image_id)
    assert not page.find_element(By.CSS_SELECTOR, ".earlier").is_displayed()
    page.get(f"{address}#%")  # nobody's ID
    page.refresh()
    await_open(page, "one")
    for index in range(4):
        served.session.delete_mask(index, "rejected")
    page.refresh()
    await_open(page, "one")
    press(page, "n")
    await_open(page, "last")
    press(page, "?")
    page.find_element(By.ID, "single").click()
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.refresh()
    await_open(page, "last")
    press(page, "?ar")
    assert not page.find_element(By.ID, "help").is_displayed() and verdict(page) == "undecided"
    press(page, Keys.ARROW_LEFT)
    await_open(page, "broken")
    page.find_element(By.ID, "help-open").click()
    page.find_element(By.ID, "single").click()


def test_what_cannot_be_saved_is_shown_and_kept(page: webdriver.Chrome, run: Path) -> None:
    (run / "corrections").write_text("in the way")
    drag(page, (10, 10), (12, 10))
    until(page, lambda: page.find_element(By.ID, "fault").is_displayed())
    assert "Not saved: Not a directory" in page.find_element(By.ID, "fault").text
    press(page, "t")
    page.switch_to.active_element.send_keys(Keys.SPACE)
    listed(page)[3].find_element(By.TAG_NAME, "button").click()
    await_open(page, "broken")
    press(page, "r")
    await_open(page, "last")
    press(page, "k")
    await_open(page, "broken")
    assert verdict(page) == "✕ rejected"  # what waits goes before what the server has
    listed(page)[0].find_element(By.TAG_NAME, "button").click()
    await_open(page, "one")
    assert page.find_element(By.CSS_SELECTOR, "[data-tag='1']").get_attribute("aria-pressed") == "false"
    assert verdict(page) == "✎ corrected, tags changed"
    assert ["not saved" in row.text for row in listed(page)] == [True, False, False, True, False]
    assert page.find_element(By.CSS_SELECTOR, "#progress p").text == f"0 of {len(IDS)} decided"
    (run / "corrections").unlink()
    page.find_element(By.ID, "retry").click()
    await_saved(page)
    assert not page.find_element(By.ID, "fault").is_displayed()
    assert not any("not saved" in row.text for row in listed(page))
    expected = ("/mask", "/tags", "/verdict", "422")
    assert all(any(word in message for word in expected) for message in console(page))
    decisions = [CorrectionsFolder(run / "corrections", CLASSES).decision(image_id) for image_id in ("one", "broken")]
    assert [(each.verdict, each.tags) for each in decisions if each] == [
        ("corrected", (CLASSES[19],)),
        ("rejected", None),
    ]
    expected = disc_along(every_value(0), (10, 10), (12, 10), brush(page), 1)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)


def test_two_reviews_of_one_run(page: webdriver.Chrome, served: Served, run: Path) -> None:
    open_session(run).delete_mask(0, "rejected")  # by somebody else, after the page was opened
    drag(page, (10, 10), (12, 10))
    until(page, lambda: "Not saved: somebody else has decided" in page.find_element(By.ID, "fault").text)
    kept = CorrectionsFolder(run / "corrections", CLASSES)
    press(page, "j")
    await_open(page, IDS[1])
    press(page, "r")  # what else is decided is saved, and does not take it along
    until(page, lambda: kept.decision(IDS[1]) is not None)
    assert [kept.decision(image_id).verdict for image_id in IDS[:2]] == ["rejected"] * 2  # type: ignore[union-attr]
    await_open(page, "turned")
    page.find_element(By.ID, "retry").click()
    await_saved(page)
    expected = disc_along(every_value(0), (10, 10), (12, 10), brush(page), 1)
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), expected)
    listed(page)[0].find_element(By.TAG_NAME, "button").click()
    await_open(page, "one")
    press(page, "r")  # its own decision is not somebody else's
    await_saved(page)
    assert kept.decision("one").verdict == "rejected"  # type: ignore[union-attr]
    assert all("409" in message or "422" in message for message in console(page))


def test_a_drawing_does_not_go_to_an_image_that_took_the_place(
    page: webdriver.Chrome, served: Served, run: Path
) -> None:
    Image.new("RGB", SIZE).save(served.session.list.item(0).path)  # as many pixels, on its side
    drag(page, (10, 10), (12, 10))
    until(page, lambda: "Not saved: the image one has changed" in page.find_element(By.ID, "fault").text)
    page.find_element(By.ID, "retry").click()
    press(page, "j")
    await_open(page, IDS[1])
    press(page, "k")
    await_open(page, "one")
    assert page.find_element(By.ID, "saving").get_attribute("data-state") == "failed"
    assert not (run / "corrections").exists()
    press(page, "r")  # a new decision takes the place of the drawing
    await_open(page, IDS[1])
    await_saved(page)
    decision = CorrectionsFolder(run / "corrections", CLASSES).decision("one")
    assert decision is not None and decision.verdict == "rejected"
    assert all("409" in message or "422" in message for message in console(page))


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
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as other:
        threading.Thread(target=other.serve_forever).start()
        page.execute_script(f"location.href = 'http://127.0.0.1:{other.server_port}/'")
        until(page, lambda: page.title == "other")
        page.get(address)
        await_open(page, "one")
        page.get(f"http://127.0.0.1:{other.server_port}/again")
        until(page, lambda: any(each.startswith("/again") for each in heard))
        other.shutdown()
    assert heard and not any(key in each or "cookie" in each.lower() for each in heard)
    page.get(address)
    await_open(page, "one")
    assert all(any(word in message for word in ("guess", "favicon", "422")) for message in console(page))


def test_an_old_address_is_a_page_that_says_so(page: webdriver.Chrome, served: Served, run: Path) -> None:
    page.get(f"{served.server.address.rsplit('/', 2)[0]}/key-of-an-earlier-start/#one")
    assert page.find_element(By.TAG_NAME, "h1").text == "tag2mask review"
    assert "the key is new at each start" in page.find_element(By.TAG_NAME, "p").text
    open_page(page, served)
    served.stop()
    drag(page, (10, 10), (12, 10))
    until(page, lambda: "The program does not answer" in page.find_element(By.ID, "fault").text)
    again = Server(served.session, "run", port=urlsplit(served.server.address).port or 0)
    serving = threading.Thread(target=again.serve)
    serving.start()
    page.find_element(By.ID, "retry").click()
    until(page, lambda: "Not saved: this address is not that" in page.find_element(By.ID, "fault").text)
    again.stop()
    serving.join()
    assert not (run / "corrections").exists()
    assert all(any(word in message for word in ("403", "422", "ERR_")) for message in console(page))


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
    console(chromium)
    serving.start()
    try:
        chromium.get(server.address)
        await_open(chromium, image_id)
        assert "{{7*7}}" in listed(chromium)[0].text and attack in chromium.title
        chromium.get(server.address)  # by the ID in the address
        await_open(chromium, image_id)
        press(chromium, "r")
        await_saved(chromium)
        assert not chromium.find_elements(By.CSS_SELECTOR, "[onerror], [onload], script:not([src]), h1 *, img[src=x]")
        assert console(chromium) == []
    finally:
        server.stop()
        serving.join()
    assert corrections.ids() == [image_id]
