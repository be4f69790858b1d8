"""The page in Chromium: it opens without an error, filters, enlarges, and fits a narrow screen."""

import base64
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from report_run import HOSTILE, IDS, SmallReport, build_run
from tag2mask.report import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    run, items = build_run(tmp_path_factory.mktemp("report"))
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
    assert len(_shown(page)) == len(IDS)
    buttons = page.find_elements(By.CSS_SELECTOR, "[data-class]")
    hostile = next(button for button in buttons if HOSTILE in button.text)  # its name is text, and did not run
    hostile.send_keys(Keys.SPACE)
    shown = _shown(page)
    assert 0 < len(shown) < len(IDS)
    assert all(HOSTILE in card.text for card in shown)
    assert [button.get_attribute("aria-pressed") for button in buttons].count("true") == 1
    assert page.find_element(By.CSS_SELECTOR, ".status").text == f"{len(shown)} of {len(IDS)} shown"
    hostile.click()  # a second time: all again
    assert len(_shown(page)) == len(IDS)
    assert buttons[0].get_attribute("aria-pressed") == "true"


def test_every_picture_is_drawn(page: webdriver.Chrome) -> None:
    broken = "return [...document.images].filter((image) => !(image.complete && image.naturalWidth)).length"
    assert page.execute_script(broken) == 0
    assert page.execute_script("return document.images.length") > 6 * 6
    base = page.find_element(By.CSS_SELECTOR, ".base")
    assert "data:image/jpeg" in base.value_of_css_property("background-image")


def test_heat_and_opacity(page: webdriver.Chrome) -> None:
    card = page.find_element(By.CSS_SELECTOR, ".card")
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
    assert len(_shown(page)) == len(IDS)


def test_a_print_keeps_the_pictures_whole_and_small(page: webdriver.Chrome) -> None:
    """A filter would rasterise every picture. A letter page is 740 × 980 CSS pixels within its margins."""
    pdf = base64.b64decode(page.print_page())
    assert pdf.count(b"/DCTDecode") == len(IDS)  # each image once, as the JPEG of the page
    assert len(pdf) < 2 * len(page.page_source)
    _width(page, 740)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for block in page.find_elements(By.CSS_SELECTOR, ".card, .chart"):
        assert block.value_of_css_property("break-inside") == "avoid" and block.size["height"] < 980
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def _width(driver: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _shown(driver: webdriver.Chrome) -> list[WebElement]:
    return [card for card in driver.find_elements(By.CSS_SELECTOR, ".card") if card.is_displayed()]


def _tags(tile: WebElement) -> set[str | None]:
    layers = tile.find_elements(By.CSS_SELECTOR, ".layer")
    return {layer.get_attribute("data-tag") for layer in layers if layer.get_attribute("hidden") is None}
