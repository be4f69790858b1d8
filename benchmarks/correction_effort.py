"""The strokes and clicks that a scripted user needs in the review page to correct masks. Prints JSON.

python benchmarks/correction_effort.py RUN --images 20

RUN is a run folder whose data set has ground truth. The user works in headless Chromium on a copy of RUN until
each class of the ground truth has IoU 0.9. At each step it takes the action that gains most mean IoU for each click: a
stroke of the brush along the middle of one of the four largest wrong regions, a fill there, and likewise for the other
tools. A corner of a polygon is a click; a free line of the lasso is one stroke, which leaves the outline by up to 4
pixels. The choice of a class, tool or size is counted apart. The user is exact, which favours the brush. `agree` counts
the masks that the page saved as the user expected, pixel for pixel.

`object` is the tool of `--assist`, with a stand-in for the model: the connected region of the ground truth under the
click, without the 3 pixels at its edge. Each click takes another object. A real model makes other errors.

The pieces of a mask are its 8-connected regions of one class, without background.
"""

import argparse
import base64
import json
import shutil
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any
from urllib.parse import quote

import numpy as np
from scipy import ndimage
from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from measure import hardware
from tag2mask import Run
from tag2mask.data import read_mask
from tag2mask.data.corrections import CorrectionsFolder
from tag2mask.review import Server, Session, reviewed_images
from tag2mask.review.assist import Assistant, Prompt
from tag2mask.runs.run_folder import RunFolder

BEFORE = ("brush", "fill")
ADDED = ("clean", "threshold", "edge", "wand", "polygon")
RIM = 3
"""Pixels that the stand-in for a model leaves out at the edge of an object."""

MOST = 200
"""Actions after which the user gives up."""

BEGIN = """
const [index, truth, done] = arguments, address = location.href.split('#')[0];
(async () => {
  const { policy } = window, tools = await policy.tools(address);
  const details = await (await fetch(`api/images/${index}`)).json(), [height, width] = details.size;
  const map = async (where) => {
    const answer = await fetch(`api/images/${index}/${where}`);
    const [w, h] = ['X-Width', 'X-Height'].map((name) => Number(answer.headers.get(name)));
    return { width: w, height: h, pixels: new Uint8Array(await answer.arrayBuffer()) };
  };
  const image = new Image();
  image.src = `api/images/${index}/picture?of=${details.image_version}`;
  await image.decode();
  const heats = {};
  for (const layer of details.layers) {
    for (const each of layer.heats) if (each) heats[each] ??= await map(`heat/${layer.name}/${each}`);
  }
  const slide = (name) => {
    const slider = document.getElementById(name), old = slider.value;
    return { slider, values: [...Array(Number(slider.max) + 1).keys()], old };
  };
  const size = slide('size'), sizes = size.values.map((value) => {
    size.slider.value = value;
    size.slider.dispatchEvent(new Event('input'));
    return parseInt(document.getElementById('size-shown').textContent);
  });
  const canvas = document.getElementById('canvas');
  const start = await map(`labels/${details.start}`);
  window.user = {
    policy, tools, map, size: null, chosen: null, tool: 'brush',
    state: {
      room: 12 / Math.min((canvas.width - 24) / width, (canvas.height - 24) / height),
      mask: new tools.Mask(width, height, start.pixels), image, sizes, heats,
      shares: tools.SHARES, tolerance: Number(document.getElementById('tolerance').value),
      truth: Uint8Array.from(atob(truth), (letter) => letter.charCodeAt(0)),
    },
  };
  return policy.ious(start.pixels, window.user.state.truth).map(([, iou]) => iou);
})().then(done, (error) => done({ error: `${error} ${error.stack}` }));
"""

CHOOSE = """
const { policy, tools, state } = window.user;
if (policy.reached(state.mask.pixels, state.truth)) return null;
const action = policy.best(tools, arguments[0], state);
if (!action) return { tool: null };
state.mask = new tools.Mask(state.mask.width, state.mask.height, action.pixels);
if (action.tolerance !== undefined) state.tolerance = action.tolerance;
const path = action.path ?? [];
const away = (one, other) => Math.hypot(one.x - other.x, one.y - other.y);
const length = path.slice(1).reduce((sum, point, before) => sum + away(point, path[before]), 0);
return { ...action, pixels: null, length };
"""

PLACES = """
const canvas = document.getElementById('canvas'), { left, top } = canvas.getBoundingClientRect();
const { width, height } = window.user.state.mask;
const scale = Math.min((canvas.width - 24) / width, (canvas.height - 24) / height); // fitted in, with a margin of 12
return arguments[0].map(({ x, y }) => [
  Math.round(left + canvas.width / 2 + (x + 0.5 - width / 2) * scale),
  Math.round(top + canvas.height / 2 + (y + 0.5 - height / 2) * scale),
]);
"""

SLIDE = """
const slider = document.getElementById(arguments[0]);
slider.value = arguments[1];
slider.dispatchEvent(new Event('input'));
slider.dispatchEvent(new Event('change'));
"""

STEPS = """
const [done] = arguments;
import(`${location.href.split('#')[0]}static/tools/correct.js`).then(({ SHARES }) => done(SHARES));
"""

IDLE = "return document.getElementById('canvas').dataset.busy === ''"

CLEAN = """
const [text, width, height, least, done] = arguments;
import(`${location.href.split('#')[0]}static/tools/clean.js`).then(({ cleaned }) => {
  const { pixels } = cleaned(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), width, height, least);
  let result = '';
  for (const value of pixels) result += String.fromCharCode(value);
  done(btoa(result));
});
"""

AGREES = """
const [index, done] = arguments, { map, state } = window.user;
map('labels/correction').then(({ pixels }) =>
  done(pixels.reduce((sum, value, at) => sum + (value !== state.mask.pixels[at]), 0)), () => done(-1));
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=20, help="the first ones of the review with ground truth")
    parser.add_argument(
        "--tools",
        nargs="*",
        help="sets of tools, joined by +; by default brush and fill, each other tool in addition, and all of them with "
        "and without object",
    )
    options = parser.parse_args()
    sets = [tuple(names.split("+")) for names in options.tools or ()]
    sets = sets or [BEFORE, (*BEFORE, *ADDED), *((*BEFORE, name) for name in (*ADDED, "lasso", "object"))]
    sets += [] if options.tools else [(*BEFORE, *ADDED, "object")]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(options.run, copy, ignore=partial(_unused, options.run))
        session = _session(copy)
        with_truth = [index for index in range(len(session.list)) if session.list.item(index).truth]
        if not with_truth:
            parser.error(f"no image of {options.run} has ground truth; set data.masks in its config.yaml")
        page = _browser(folder)
        try:
            pieces = _pieces(page, session, with_truth)
            efforts = {}
            for names in sets:
                efforts["+".join(names)] = _effort(page, copy, names, with_truth[: options.images])
                print(names, efforts["+".join(names)], file=sys.stderr)
        finally:
            page.quit()
        print(json.dumps({"clean": pieces, "effort": efforts, "hardware": hardware()}, indent=1))


def _browser(folder: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1300,900",
        f"--user-data-dir={folder}/p",
    ):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def _unused(run: Path, folder: str, names: list[str]) -> set[str]:
    """What the review of a run does not read."""
    return {"train", "edges", "segment", "corrections"} & {*names} if Path(folder) == run else set()


def _session(run: Path) -> Session:
    """The review of the run, of the data that its config.yaml names."""
    config = Run(run).config
    images = reviewed_images(config, RunFolder(run))
    corrections = CorrectionsFolder(run / "corrections", images.classes)
    return Session(
        images, RunFolder(run), corrections, pixel_limit=config.data.pixel_limit, intensity=config.data.intensity
    )


def _effort(page: webdriver.Chrome, run: Path, tools: tuple[str, ...], indices: list[int]) -> dict[str, Any]:
    """What the user needs for some images."""
    shutil.rmtree(run / "corrections", ignore_errors=True)
    session = _session(run)
    session.assistant = StandIn(session)
    server = Server(session, "run")
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        users = [User(page, server.address, session, index).correct(tools) for index in indices]
    finally:
        page.get("about:blank")
        server.stop()
        thread.join()
    return {
        "images": len(users),
        "reached": sum(user["reached"] for user in users),
        "clicks": sum(user["clicks"] for user in users),
        "median_clicks": median(user["clicks"] for user in users),
        "choices": sum(user["choices"] for user in users),
        "path_pixels": round(sum(user["path"] for user in users)),
        "agree": sum(user["differing"] == 0 for user in users),
        "by_tool": {name: sum(user["by_tool"].get(name, 0) for user in users) for name in tools},
        "start_iou": round(mean(user["start"] for user in users), 3),
    }


class StandIn(Assistant):
    """Finds objects in the ground truth."""

    def __init__(self, session: Session) -> None:
        """Know the ground truth of the session's images."""
        items = [session.list.item(index) for index in range(len(session.list))]
        self._truths = {item.path: item.truth for item in items}

    def encode(self, path: Path) -> None:
        """Nothing."""

    def mask(self, path: Path, prompt: Prompt) -> np.ndarray:
        """The object under the first point."""
        truth = read_mask(self._truths[path])
        column, row = (int(value) for value in prompt.points[0][:2])
        pieces, _ = ndimage.label(truth == truth[row, column])
        there = pieces == pieces[row, column]
        square = np.ones((2 * RIM + 1, 2 * RIM + 1))
        return ndimage.binary_erosion(there, square, border_value=1).astype(np.uint8)

    def close(self) -> None:
        """Nothing."""


class User:
    """The scripted user at one image."""

    def __init__(self, page: webdriver.Chrome, address: str, session: Session, index: int) -> None:
        """Open the image."""
        item = session.list.item(index)
        self.page, self.index, self.choices = page, index, 0
        self.chosen: dict[str, object] = {"tool": "brush"}
        page.get("about:blank")
        page.get(f"{address}#{quote(item.id, safe='')}")
        self._until(lambda: page.find_element(By.ID, "id").text == item.id)
        source = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
        page.execute_script(f"{source}; window.policy = {{ tools, best, ious, reached }};")
        truth = base64.b64encode(read_mask(item.truth).tobytes()).decode()
        self.start = page.execute_async_script(BEGIN, index, truth)
        if isinstance(self.start, dict):
            raise RuntimeError(self.start["error"])
        self.chosen["tolerance"] = page.execute_script("return window.user.state.tolerance")

    def correct(self, tools: tuple[str, ...]) -> dict[str, Any]:
        """Work until each class has the wanted IoU, no action gains, or there were too many."""
        clicks, path, by_tool = 0, 0.0, dict.fromkeys(tools, 0)
        action: dict[str, Any] | None = None
        while clicks < MOST:
            action = self.page.execute_script(CHOOSE, tools)
            if action is None or action["tool"] is None:
                break
            self._act(action)
            clicks, path = clicks + action["cost"], path + action["length"]
            by_tool[action["tool"]] += 1
        self._until(
            lambda: self.page.find_element(By.ID, "saving").get_attribute("data-state") == "saved" or not clicks
        )
        differing = self.page.execute_async_script(AGREES, self.index) if clicks else 0
        return {
            "reached": action is None, "clicks": clicks, "choices": self.choices, "path": path, "differing": differing,
            "by_tool": by_tool, "start": mean(self.start),
        }  # fmt: skip

    def _act(self, action: dict[str, Any]) -> None:
        tool = action["tool"]
        if "value" in action:
            self._choose("class", action["value"], f"[data-class='{action['value']}']")
        if tool in ("clean", "threshold"):
            self._slide("least" if tool == "clean" else "threshold", action["step" if tool == "clean" else "threshold"])
            time.sleep(0.3)
            return
        self._choose("tool", tool, f"[data-tool='{'lasso' if tool == 'polygon' else tool}']")
        if tool == "object":
            self.page.execute_script("document.getElementById('next-object').click()")
            self.choices += 1
        if tool in ("brush", "edge"):
            self._slide("size", action["step"])
        self._draw(action["path"], corners=tool == "polygon")
        if tool == "object":
            self._until(lambda: self.page.execute_script(IDLE))
        if tool == "wand":
            self._slide("tolerance", action["tolerance"])

    def _choose(self, what: str, value: object, button: str) -> None:
        if self.chosen.get(what) != value:
            self.page.execute_script("document.querySelector(arguments[0]).click()", button)
            self.choices += 1
        self.chosen[what] = value

    def _slide(self, name: str, value: object) -> None:
        if name in ("size", "tolerance") and self.chosen.get(name) == value:
            return
        self.choices += name == "size"
        self.chosen[name] = value
        self.page.execute_script(SLIDE, name, value)

    def _draw(self, path: list[dict[str, int]], *, corners: bool) -> None:
        """Press on the first point and drag to the others, or click on each and again on the first."""
        points = self.page.execute_script(PLACES, path)
        actions = ActionBuilder(self.page, duration=0)
        pointer = actions.pointer_action
        pointer.move_to_location(*points[0]).pointer_down()
        for point in (*points[1:], *points[:1]) if corners else points[1:]:
            if corners:
                pointer.pointer_up()
            pointer.move_to_location(*point)
            if corners:
                pointer.pointer_down()
        pointer.pointer_up()
        actions.perform()

    def _until(self, holds: Any) -> None:
        WebDriverWait(self.page, 60, poll_frequency=0.02).until(lambda _: holds())


def _pieces(page: webdriver.Chrome, session: Session, indices: list[int]) -> list[dict[str, Any]]:
    """The pieces and the IoU of the run's masks by the size of the pieces that Clean removes, a share of the image."""
    server = Server(session, "run")
    thread = threading.Thread(target=server.serve)
    thread.start()
    rows = []
    try:
        page.get(server.address)
        for share in (None, *page.execute_async_script(STEPS)):
            pieces, ious, truths = [], [], []
            for index in indices:
                mask, truth = session.labels(index, "mask"), read_mask(session.list.item(index).truth)
                if share is not None:
                    least, (height, width) = share / 100 * mask.size, mask.shape
                    text = base64.b64encode(mask.tobytes()).decode()
                    cleaned = page.execute_async_script(CLEAN, text, width, height, least)
                    mask = np.frombuffer(base64.b64decode(cleaned), dtype=np.uint8).reshape(mask.shape)
                pieces.append(_count(mask))
                truths.append(_count(truth))
                seen = truth != 255
                values = np.unique(truth[seen])
                inside = [((mask == value) & seen, (truth == value) & seen) for value in values]
                ious.append(mean((one & other).sum() / (one | other).sum() for one, other in inside))
            row = {"share": share, "median_pieces": median(pieces), "mean_iou": round(mean(ious), 4)}
            rows.append({**row, "masks": len(pieces), "median_pieces_of_the_truth": median(truths)})
    finally:
        page.get("about:blank")
        server.stop()
        thread.join()
    return rows


def _count(mask: np.ndarray) -> int:
    return sum(
        int(ndimage.label(mask == value, np.ones((3, 3)))[1]) for value in np.unique(mask) if value not in (0, 255)
    )


if __name__ == "__main__":
    main()
