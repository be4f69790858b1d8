"""axe-core finds no violation on the page of a review, light and dark, wide and narrow."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from axe import violations
from review_page import Regions, Served, await_open, open_page, press, until
from review_run import build_run
from tag2mask.data import read_image
from tag2mask.review import Assistant

pytestmark = pytest.mark.browser


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    review = Served(build_run(tmp_path), Assistant(Regions(), read_image))
    yield review
    review.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_is_accessible(chromium: webdriver.Chrome, served: Served, scheme: str, width: int) -> None:
    page = chromium
    page.set_window_size(width, 900)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    open_page(page, served)
    found = {"first": violations(page)}
    page.find_element("css selector", "[data-layer=cam-pot]").click()
    press(page, "gd")
    found["heat"] = violations(page)
    press(page, "w")
    found["wand"] = violations(page)
    press(page, "o")
    until(page, lambda: page.find_element("id", "object-state").text.startswith("Click an object"))
    found["object"] = violations(page)
    press(page, "a")
    until(page, lambda: page.find_element("id", "note").is_displayed())
    await_open(page, "one")
    press(page, "a")
    await_open(page, "trip/two & 東京")
    for image_id in ("turned", "broken"):
        press(page, "r")
        await_open(page, image_id)
    found["broken"] = violations(page)
    press(page, "?")
    found["keys"] = violations(page)
    assert {name: rules for name, rules in found.items() if rules} == {}
