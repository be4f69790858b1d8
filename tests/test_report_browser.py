"""The page in Chromium: it opens without an error, filters, enlarges, and fits a narrow screen."""

import base64
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from axe import violations
from report_run import HOSTILE, IDS, SmallReport, build_run, write_ranking
from tag2mask.report import write_report

CARDS = len(IDS) + 2
"""All images, and two of them among the least certain masks, too."""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    run, items = build_run(tmp_path_factory.mktemp("report"))
    write_ranking(run, IDS[:2])
    return write_report(run, items, SmallReport()).as_uri()


@pytest.fixture
def page(chromium: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:
    """The page, 1400 pixels wide; an error in the console fails the test."""
    _width(chromium, 1400)
    chromium.get(address)
    yield chromium
    errors = [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]  # type: ignore[no-untyped-call]
    assert not errors


def test_the_filter_shows_the_images_of_a_class(page: webdriver.Chrome) -> None:
    assert len(_shown(page)) == CARDS
    buttons = page.find_elements(By.CSS_SELECTOR, "[data-class]")
    hostile = next(button for button in buttons if HOSTILE in button.text)  # its name is text, and did not run
    hostile.send_keys(Keys.SPACE)
    shown = _shown(page)
    assert 0 < len(shown) < CARDS
    assert all(HOSTILE in card.text for card in shown)
    assert [button.get_attribute("aria-pressed") for button in buttons].count("true") == 1
    assert page.find_element(By.CSS_SELECTOR, ".status").text == f"{len(shown)} of {CARDS} shown"
    hostile.click()  # a second time: all again
    assert len(_shown(page)) == CARDS
    assert buttons[0].get_attribute("aria-pressed") == "true"


def test_every_picture_is_drawn(page: webdriver.Chrome) -> None:
    broken = "return [...document.images].filter((image) => !(image.complete && image.naturalWidth)).length"
    assert page.execute_script(broken) == 0
    assert page.execute_script("return document.images.length") > 6 * 6
    base = page.find_element(By.CSS_SELECTOR, ".base")
    assert "data:image/jpeg" in base.value_of_css_property("background-image")


def test_heat_and_opacity(page: webdriver.Chrome) -> None:
    card = page.find_element(By.CSS_SELECTOR, "#gallery .card")
    chip = card.find_element(By.CSS_SELECTOR, ".chip")
    tag = chip.get_attribute("data-tag")
    tile = card.find_element(By.CSS_SELECTOR, ".tile.pot")
    assert _tags(tile) == {"0"}
    chip.click()
    assert _tags(tile) == {tag}
    chip.click()
    assert _tags(tile) == {"0"}
    page.find_element(By.CSS_SELECTOR, "[data-view=heat]").click()
    assert "0" not in _tags(tile)
    slider = page.find_element(By.ID, "overlay")
    slider.send_keys(Keys.HOME)
    layers = tile.find_elements(By.CSS_SELECTOR, ".layer:not([hidden])")
    assert {layer.value_of_css_property("opacity") for layer in layers} == {"0"}


def test_the_lightbox_by_keyboard(page: webdriver.Chrome) -> None:
    page.find_element(By.CSS_SELECTOR, ".tile.pot .open").send_keys(Keys.ENTER)
    dialog = page.find_element(By.CSS_SELECTOR, "dialog")
    caption = dialog.find_element(By.CSS_SELECTOR, ".lightbox-caption")
    assert dialog.is_displayed() and caption.text.startswith("POT CAM")
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert caption.text.startswith("Allocation")
    before = caption.text
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert caption.text.startswith("Allocation") and caption.text != before
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_another_picture_covers_the_left_part(page: webdriver.Chrome) -> None:
    page.find_element(By.CSS_SELECTOR, "#gallery .tile.mask .open").click()
    under, over = page.find_elements(By.CSS_SELECTOR, ".frame > .tile")
    assert "mask" in str(under.get_attribute("class")) and "image" in str(over.get_attribute("class"))
    assert over.value_of_css_property("clip-path") == "inset(0px 100% 0px 0px)"
    page.find_element(By.ID, "cut").send_keys(Keys.END)
    assert "mask" in str(page.find_element(By.CSS_SELECTOR, ".frame > .tile").get_attribute("class"))
    over = page.find_elements(By.CSS_SELECTOR, ".frame > .tile")[1]
    assert over.value_of_css_property("clip-path") == "inset(0px 0% 0px 0px)"
    drag = ActionChains(page).move_to_element_with_offset(over, 1 - over.size["width"] // 2, 0)
    drag.click_and_hold().move_by_offset(over.size["width"] // 4, 0).release().perform()
    assert abs(float(page.find_element(By.ID, "cut").get_property("value")) - 25) < 3  # type: ignore[arg-type]
    Select(page.find_element(By.ID, "other")).select_by_visible_text("Truth")
    page.find_element(By.CSS_SELECTOR, "[data-step='1']").click()
    assert "mask" not in str(page.find_element(By.CSS_SELECTOR, ".frame > .tile").get_attribute("class"))
    page.find_element(By.CSS_SELECTOR, "[data-close]").click()


def test_a_chart_enlarges(page: webdriver.Chrome) -> None:
    page.find_element(By.CSS_SELECTOR, ".chart .open").send_keys(Keys.ENTER)
    caption = page.find_element(By.CSS_SELECTOR, ".lightbox-caption")
    assert page.find_element(By.CSS_SELECTOR, ".frame svg").is_displayed() and caption.text.startswith("Mean IoU")
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert page.find_element(By.CSS_SELECTOR, ".frame svg").is_displayed() and not caption.text.startswith("Mean IoU")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.find_element(By.CSS_SELECTOR, ".plot").click()
    assert caption.text.startswith("Mean IoU")


def test_search_links_and_copies(page: webdriver.Chrome) -> None:
    page.find_element(By.ID, "search").send_keys("SUB/")
    assert [card.find_element(By.TAG_NAME, "h4").text for card in _shown(page)] == [IDS[1], IDS[1]]
    page.find_element(By.ID, "search").send_keys("nowhere")
    assert not _shown(page) and "No image on this page" in page.find_element(By.TAG_NAME, "main").text
    page.find_element(By.CSS_SELECTOR, ".links a").click()  # to a card that the search has hidden
    assert len(_shown(page)) == CARDS
    button = page.find_element(By.CSS_SELECTOR, ".copy")
    button.click()
    WebDriverWait(page, 5).until(lambda _: button.text in ("Copied", "Selected"))
    assert page.execute_script("return String(getSelection())").startswith("tag2mask review ")


def test_the_table_of_each_split(page: webdriver.Chrome) -> None:
    tables = page.find_elements(By.CSS_SELECTOR, "[data-table]")
    assert [table.is_displayed() for table in tables] == [True, False]
    page.find_elements(By.CSS_SELECTOR, "[data-split]")[1].click()
    assert [table.is_displayed() for table in tables] == [False, True]


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_fits_the_screen(page: webdriver.Chrome, width: int) -> None:
    _width(page, width)
    assert page.execute_script("return window.innerWidth") == width
    root = page.find_element(By.TAG_NAME, "html")
    assert root.get_property("scrollWidth") == root.get_property("clientWidth")
    assert len(_shown(page)) == CARDS
    page.find_element(By.CSS_SELECTOR, ".tile.mask .open").click()
    picture, dialog = (page.find_element(By.CSS_SELECTOR, name) for name in (".frame .picture", ".lightbox"))
    assert 0.8 * min(width, 1050) < picture.size["width"] <= dialog.size["width"] <= width
    page.find_element(By.CSS_SELECTOR, "[data-close]").click()


def test_a_print_keeps_the_pictures_whole_and_small(page: webdriver.Chrome) -> None:
    """A filter would rasterise every picture. A letter page is 740 × 980 CSS pixels within its margins."""
    pdf = base64.b64decode(page.print_page())
    assert pdf.count(b"/DCTDecode") == CARDS  # each image once, as the JPEG of the page
    assert len(pdf) < 2 * len(page.page_source)
    _width(page, 740)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for block in page.find_elements(By.CSS_SELECTOR, ".card, .chart"):
        assert block.value_of_css_property("break-inside") == "avoid" and block.size["height"] < 980
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 800, 400])
def test_axe_finds_no_violation(page: webdriver.Chrome, width: int, scheme: str) -> None:
    _width(page, width)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    assert violations(page) == []
    page.find_element(By.CSS_SELECTOR, ".tile.mask .open").click()
    assert violations(page) == []
    page.find_element(By.CSS_SELECTOR, "[data-close]").click()


def _width(driver: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _shown(driver: webdriver.Chrome) -> list[WebElement]:
    return [card for card in driver.find_elements(By.CSS_SELECTOR, ".card") if card.is_displayed()]


def _tags(tile: WebElement) -> set[str | None]:
    layers = tile.find_elements(By.CSS_SELECTOR, ".layer")
    return {layer.get_attribute("data-tag") for layer in layers if layer.get_attribute("hidden") is None}
