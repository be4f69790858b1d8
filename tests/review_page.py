"""A review that is served to a test's browser, and what a person does on its page."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from review_run import SIZE, open_session
from tag2mask.networks.promptable import Candidates, Encoded, Promptable
from tag2mask.review import Assistant, Server


def free_port() -> int:
    """A port that nobody takes when its server stops, unlike the first free one of several test processes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Served:
    """A review that is served from a thread, and stopped."""

    def __init__(self, run: Path, assistant: Assistant | None = None) -> None:
        self.session = open_session(run)
        self.session.assistant = assistant
        self.server = Server(self.session, "run", port=free_port())
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()

    def stop(self) -> None:
        self.server.stop()
        self.thread.join()


class Regions(Promptable):
    """Finds the connected regions of one colour under the points, or the colour in the middle of the box within it."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.encodings, self.go_on, self.broken = 0, threading.Event(), False  # broken: for one request
        self.go_on.set()

    def encode(self, image: np.ndarray) -> Encoded:
        self.encodings += 1
        self.go_on.wait(60)
        return Encoded(image.shape[:2], image.shape[:2], None, {"image": image})

    def masks(
        self,
        encoded: Encoded,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> Candidates:
        self.go_on.wait(60)
        broken, self.broken = self.broken, False
        if broken:
            raise RuntimeError("the model does not answer")
        found = np.zeros(encoded.size, dtype=bool)
        if boxes is not None:
            left, top, right, bottom = boxes[0].astype(int)
            found[top:bottom, left:right] = _region(encoded, (left + right) / 2, (top + bottom) / 2)[
                top:bottom, left:right
            ]
        if points is not None and labels is not None:
            for (x, y), label in zip(points[0].tolist(), labels[0].tolist(), strict=True):
                found[_region(encoded, x, y)] = label == 1
        logits = torch.from_numpy(np.stack([~found, found])[None] * 2.0 - 1).float()
        return Candidates(logits, torch.tensor([[0.1, 0.9]]))


def _region(encoded: Encoded, x: float, y: float) -> np.ndarray:
    grey = encoded.features["image"][..., 0].astype(int)
    pieces, _ = ndimage.label(np.abs(grey - grey[int(y), int(x)]) < 20)
    return pieces == pieces[int(y), int(x)]


def console(page: webdriver.Chrome) -> list[str]:
    """What the console complained about since it was last asked."""
    entries = page.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


def open_page(page: webdriver.Chrome, served: Served) -> None:
    page.get(served.server.address)
    await_open(page, "one")


def await_open(page: webdriver.Chrome, image_id: str) -> None:
    """Wait for an image to be shown, and until it can be decided."""
    ready = (By.CSS_SELECTOR, "[data-do=accept][aria-disabled=false]")
    until(page, lambda: page.find_element(By.ID, "id").text == image_id and bool(page.find_elements(*ready)))


def await_saved(page: webdriver.Chrome) -> None:
    until(page, lambda: page.find_element(By.ID, "saving").get_attribute("data-state") == "saved")


def until(page: webdriver.Chrome, holds: Callable[[], bool]) -> None:
    WebDriverWait(page, 60, poll_frequency=0.05).until(lambda _: holds())


def press(page: webdriver.Chrome, keys: str) -> None:
    """Keys, not into any field."""
    page.find_element(By.ID, "canvas")
    page.execute_script("document.getElementById('canvas').focus()")
    ActionChains(page).send_keys(keys).perform()


def brush(page: webdriver.Chrome) -> int:
    """The diameter of the brush in pixels of the mask, as the page shows it."""
    return int(page.find_element(By.ID, "size-shown").text.split()[0])


def drag(page: webdriver.Chrome, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Draw with the mouse from the middle of one pixel of the mask to that of another."""
    canvas = page.find_element(By.ID, "canvas")
    width, height = canvas.rect["width"], canvas.rect["height"]
    scale = min((width - 24) / SIZE[1], (height - 24) / SIZE[0])  # the image is fitted in, with a margin of 12

    def offset(pixel: tuple[int, int]) -> tuple[int, int]:
        return round((pixel[0] + 0.5 - SIZE[1] / 2) * scale), round((pixel[1] + 0.5 - SIZE[0] / 2) * scale)

    actions = ActionChains(page, duration=20).move_to_element_with_offset(canvas, *offset(start)).click_and_hold()
    actions.move_to_element_with_offset(canvas, *offset(end)).release().perform()


def listed(page: webdriver.Chrome) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, "#images li:not(.more-images, .earlier)")


def verdict(page: webdriver.Chrome) -> str:
    return page.find_element(By.ID, "verdict").text


def pictures(page: webdriver.Chrome) -> set[str]:
    """The addresses of the images that the page asked for."""
    script = "return performance.getEntriesByType('resource').map((e) => e.name).filter((e) => /picture|thumb/.test(e))"
    return set(page.execute_script(script))  # type: ignore[no-untyped-call]


def contrast(page: webdriver.Chrome, element: WebElement) -> float:
    """Of the text of an element with what lies behind it, by WCAG 2."""
    lights = []
    for name in ("color", "background-color"):
        values = [float(value) / 255 for value in re.findall(r"[\d.]+", element.value_of_css_property(name))[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        lights.append(float(np.dot(linear, (0.2126, 0.7152, 0.0722))) + 0.05)
    return max(lights) / min(lights)


@pytest.fixture
def served(run: Path) -> Iterator[Served]:
    """The run of a test file, served."""
    review = Served(run)
    yield review
    review.stop()


@pytest.fixture
def page(chromium: webdriver.Chrome, served: Served) -> Iterator[webdriver.Chrome]:
    """The page with the first image; an error in the console fails the test, but for the broken image's."""
    console(chromium)
    open_page(chromium, served)
    yield chromium
    assert not [message for message in console(chromium) if "422" not in message]
