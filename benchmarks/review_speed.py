"""Speed of the review page with 5,000 images, four of them of 24 megapixels, in headless Chromium. Prints JSON.

python benchmarks/review_speed.py FOLDER

Times are in milliseconds, medians of frames and of 15 images. FOLDER gets the generated data, which later calls use.
"""

import argparse
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver

from measure import hardware
from tag2mask.data import DataSettings, write_mask
from tag2mask.data.corrections import CorrectionsFolder
from tag2mask.review import Server, Session, reviewed_images
from tag2mask.runs.config import Config
from tag2mask.runs.run_folder import RunFolder

IMAGES, LARGE, NAMES = 5000, 4, tuple(f"class {number:02d}" for number in range(1, 21))
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1600,1000")

SCRIPT = """
const sleep = (ms) => new Promise((done) => setTimeout(done, ms)), frame = () => new Promise(requestAnimationFrame);
const canvas = document.getElementById("canvas"), id = document.getElementById("id");
canvas.setPointerCapture = () => {};
const key = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const median = (values) => Math.round(10 * values.sort((a, b) => a - b)[values.length >> 1]) / 10;
const next = async (pressed) => {
  const before = id.textContent, begin = performance.now();
  key(pressed);
  while (id.textContent === before) await frame();
  await frame();
  await frame();
  return Math.round(performance.now() - begin);
};
const paint = async () => {
  const box = canvas.getBoundingClientRect(), gaps = [], ends = [];
  const send = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, {
    clientX: box.left + x, clientY: box.top + y, button: type === "pointermove" ? -1 : 0, buttons: 1, pointerId: 1,
    pointerType: "mouse", isPrimary: true, bubbles: true,
  }));
  for (let stroke = 0; stroke < 6; stroke++) {
    const y = box.height * (0.25 + stroke / 12);
    send("pointerdown", box.width * 0.3, y);
    let last = await frame();
    for (let step = 1; step <= 30; step++) {
      send("pointermove", box.width * (0.3 + step / 75), y + 10 * Math.sin(step));
      const now = await frame();
      gaps.push(now - last);
      last = now;
    }
    const begin = performance.now();
    send("pointerup", box.width * 0.7, y);
    await frame();
    await frame();
    ends.push(performance.now() - begin);
  }
  return { frame: median(gaps), stroke_end: median(ends) };
};
const series = async () => {
  const found = [];
  for (let number = 0; number < 15; number++) {
    found.push(await next("j"));
    await sleep(300);
  }
  return median(found);
};
const done = arguments[arguments.length - 1];
(async () => { BODY })().then(done, (error) => done(`${error}`));
"""


def build(folder: Path) -> Config:
    """A run with masks over generated images; the small ones are one file under many names."""
    data, run = folder / "data", folder / "run"
    config = Config(out=run, data=DataSettings(root=data, classes=",".join(NAMES)))
    if (run / "config.yaml").is_file():
        return config
    data.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        name = f"{number:05d}"
        if number > LARGE:
            for place, suffix in ((data, "jpg"), (run / "masks", "png")):
                os.link(place / f"{LARGE:05d}.{suffix}", place / f"{name}.{suffix}")
            continue
        height, width = (4000, 6000) if number < LARGE else (400, 600)
        coarse = Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(data / f"{name}.jpg", quality=90)
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[height // 4 : -height // 4, width // 4 : -width // 4] = 1 + number
        write_mask(run / f"masks/{name}.png", mask)
    rows = [f"{number:05d}.jpg,{NAMES[number % len(NAMES)]}" for number in range(IMAGES)]
    (data / "tags.csv").write_text("\n".join(["image,tags", *rows]) + "\n")
    RunFolder(run).record_config(config)
    return config


def measure(config: Config, page: webdriver.Chrome) -> dict[str, object]:
    folder = RunFolder(config.out or Path())
    images = reviewed_images(config, folder)
    corrections = CorrectionsFolder(folder / "corrections", images.classes)
    server = Server(Session(images, folder, corrections, pixel_limit=config.data.pixel_limit), "run")
    threading.Thread(target=server.serve, daemon=True).start()

    def do(body: str) -> object:
        return page.execute_async_script(SCRIPT.replace("BODY", body))  # type: ignore[no-untyped-call]

    page.get(server.address)
    do("while (!id.textContent) await frame();")
    time.sleep(12)  # the next image is loaded ahead
    found = {"next of 24 megapixels, loaded ahead": do("return next('j');")}
    found["next of 24 megapixels, at once"] = do("return next('j');")
    time.sleep(12)
    found["painting, 24 megapixels"] = do("return paint();")
    found["painting, 24 megapixels, largest brush"] = do("for (let i = 0; i < 12; i++) key(']'); return paint();")
    time.sleep(5)  # saved
    do("for (let i = 0; i < 2; i++) await next('j');")
    found["next of 600 x 400 pixels"] = do("return series();")
    rows = "const list = document.getElementById('images'), begin = performance.now();"
    rows += "while (!list.querySelector('.more-images').hidden && performance.now() - begin < 60000) {"
    rows += "list.scrollTop = list.scrollHeight; await sleep(50); } return Math.round(performance.now() - begin);"
    found["to the end of the list"] = do(rows)
    found["painting with the whole list"] = do("return paint();")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    config = build(parser.parse_args().folder)
    shutil.rmtree((config.out or Path()) / "corrections", ignore_errors=True)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    page = webdriver.Chrome(options=options, service=service)
    page.set_script_timeout(180)
    found = measure(config, page)
    page.quit()
    print(json.dumps({"milliseconds": found, "load": os.getloadavg()[0], "hardware": hardware()}, indent=2), flush=True)
    os._exit(0)  # the server's thread waits for requests


if __name__ == "__main__":
    main()
