"""Differences from OpenCV's resizing and HSV, which the recipes of `deeplab-concat` and `deeplab-largefov` use.

`python experiments/opencv_resizing.py voc-animals` prints JSON: mean and largest difference of pixels, in levels of
255, and the share of labels that differ, per scale; `hue` is with random shifts of hue, saturation and value. OpenCV's
rules are written here in NumPy: bicubic interpolation with a = -0.75 and no antialiasing at (i + 0.5) / scale - 0.5,
labels at floor(i / scale), hue in 180 steps.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tag2mask.cams.inference import resize
from tag2mask.data.loading.augment import Geometry, cut, recoloured


def bicubic(image: np.ndarray, size: tuple[int, ...], scale: float) -> np.ndarray:
    for axis, (side, pixels) in enumerate(zip(image.shape[:2], size, strict=True)):
        places = (np.arange(pixels) + 0.5) / scale - 0.5
        weights = np.zeros((pixels, side))
        for tap in range(-1, 3):
            away, cell = np.abs(places - np.floor(places) - tap), (np.floor(places) + tap).clip(0, side - 1).astype(int)
            near, far = 1.25 * away**3 - 2.25 * away**2 + 1, -0.75 * (away**3 - 5 * away**2 + 8 * away - 4)
            np.add.at(weights, (np.arange(pixels), cell), np.where(away <= 1, near, far))
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image


def jittered(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(image.astype(int), 2, 0)
    value = image.max(2).astype(int)
    spread = value - image.min(2)
    steps = np.where(value == red, green - blue, np.where(value == green, blue - red, red - green))
    steps += spread * np.where(value == red, 0, np.where(value == green, 2, 4))
    hue = np.floor(steps * 30 / spread.clip(1) + 0.5) + shift[0]
    saturation = (np.floor(spread * 255 / value.clip(1) + 0.5) + shift[1]).clip(0, 255) / 255
    sector, value = hue % 180 / 30, (value + shift[2]).clip(0, 255)
    bands = [(first + sector) % 6 for first in (5, 3, 1)]
    colours = [value - value * saturation * np.minimum(band, 4 - band).clip(0, 1) for band in bands]
    return np.stack(colours, 2).round()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="with JPEGImages and SegmentationClass")
    parser.add_argument("--images", type=int, default=200)
    options, found, rng = parser.parse_args(), {}, np.random.default_rng(0)

    def keep(what: str, differences: np.ndarray, labels: float = 0.0) -> None:
        found.setdefault(what, []).append((np.abs(differences).mean(), np.abs(differences).max(), labels))

    masks = sorted((options.root / "SegmentationClass").glob("*.png"))
    for path in masks[:: max(1, len(masks) // options.images)]:
        image = np.array(Image.open(options.root / "JPEGImages" / f"{path.stem}.jpg").convert("RGB"))
        mask, shift = np.asarray(Image.open(path)), rng.integers(-10, 10, 3)
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        ours = recoloured(tensor, shift).permute(1, 2, 0).numpy() * 255
        keep("hue", ours - jittered(image, shift))
        for scale in (0.5, 0.75, 1.0, 1.25, 1.5):
            height, width = size = tuple(round(side * scale) for side in mask.shape)
            theirs = bicubic(image, size, scale)
            view = cut(image, Geometry(size, 0, 0, max(size), False), mask=mask)
            ours, labels = view.image.permute(1, 2, 0).numpy() * 255, view.mask.numpy()
            rows, columns = ((np.arange(side) * (1 / scale)).astype(int) for side in size)
            differing = (labels[:height, :width] != mask[rows][:, columns]).mean()
            keep(f"training {scale}", ours[:height, :width] - theirs.round().clip(0, 255), differing)
            ours = resize(tensor[None], scale)[0].permute(1, 2, 0).numpy() * 255
            keep(f"prediction {scale}", ours - theirs)
    for name, each in sorted(found.items()):
        (mean, _, labels), most = np.mean(each, axis=0), np.max(each, axis=0)[1]
        print(json.dumps({"what": name, "mean": float(mean), "largest": float(most), "labels": float(labels)}))


if __name__ == "__main__":
    main()
