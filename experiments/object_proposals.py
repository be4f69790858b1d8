"""Measures `refine.method proposals` with true objects, degraded, in place of a model's masks.

python experiments/object_proposals.py RUN [--split train] [--every 1] [--crf-power 1]

The prompts are those of the method: the CAM's peak and the box of each region of the CRF's mask. The stand-in answers
with the connected region of the truth that the point lies in, background too, inside of the box enlarged by a tenth.
The region is exact; its border is moved by 3 to 5 pixels, in or out; it is also cut to a half; it also spills over its
border by a disc of the radius √area / 2; or one of the last three, by chance ("rough").
Every second image chooses the margin, the weight of a vote, and what becomes of the rest of a region, by the mean gain
of the five kinds; the others report. RUN has POT CAMs and ground truth.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from error_bars import Counts, counts_of, estimate, miou, paired
from maps import open_run
from proposals import filled
from tag2mask.data.cam_files import full_resolution, read_cam
from tag2mask.data.images import read_image, read_mask
from tag2mask.refine import dense_crf
from tag2mask.refine.proposals import RegionPrompts, named, region_prompts
from tag2mask.refine.settings import RefineSettings
from tag2mask.runs.ground_truth import class_ids

Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]

KINDS = ("exact", "border", "half", "spill", "rough")
WEIGHTS = (1.0, 0.85, 0.7)
MARGINS = (0.2, 0.4)
COVERED = (0.7, 2.0)  # 2: the rest of a region keeps its labels


class Method(NamedTuple):
    kind: str
    margin: float = 0.0
    covered: float = 0.0
    weight: float = 0.0


CRF = Method("CRF")


def moved(region: Bools, pixels: int) -> Bools:
    """The region with its border moved out, or in if negative; an empty one stays as it is."""
    outside = ndimage.distance_transform_edt(~region)
    inside = ndimage.distance_transform_edt(region)
    found: Bools = outside <= pixels if pixels > 0 else inside > -pixels
    return found if found.any() else region


def degraded(region: Bools, point: tuple[int, int], kind: str, random: np.random.Generator) -> Bools:
    """The region as a model might find it; ``point`` is (row, column)."""
    if kind == "exact":
        return region
    chosen = {"rough": ("border", "half", "spill")}.get(kind, (kind,))
    kind = chosen[random.integers(len(chosen))]
    region = moved(region, int(random.integers(3, 6)) * int(random.choice([-1, 1])))
    rows, columns = np.nonzero(region)
    direction = random.uniform(0, 2 * np.pi)
    grid = np.mgrid[: region.shape[0], : region.shape[1]]
    if kind == "half":
        side = (grid[0] - rows.mean()) * np.sin(direction) + (grid[1] - columns.mean()) * np.cos(direction)
        half: Bools = region & ((side > 0) == (side[point] > 0))
        return half if half.any() else region
    if kind == "spill":
        place = random.integers(len(rows))
        near = np.hypot(grid[0] - rows[place], grid[1] - columns[place]) <= np.sqrt(len(rows)) / 2
        spilling: Bools = region | near
        return spilling
    return region


def stand_in(truth: Labels, asked: RegionPrompts, kind: str) -> torch.Tensor:
    """The masks for prompts: bool (P, H, W)."""
    found, random = [], np.random.default_rng(0)
    for (x, y), (x1, y1, x2, y2) in zip(asked.points[:, 0].astype(int), asked.boxes.astype(int), strict=True):
        numbers, _ = ndimage.label(truth == truth[y, x], np.ones((3, 3)))
        region = numbers == numbers[y, x]
        across, down = (x2 - x1) // 10, (y2 - y1) // 10
        boxed = np.zeros_like(region)
        inside = slice(max(y1 - down, 0), y2 + down + 1), slice(max(x1 - across, 0), x2 + across + 1)
        boxed[inside] = region[inside]
        found.append(degraded(boxed, (y, x), kind, random))
    return torch.from_numpy(np.array(found, dtype=bool).reshape(-1, *truth.shape))


def labels_of(image: Path, cam_file: Path, truth: Labels, power: float) -> Iterator[tuple[Method, Labels]]:
    """The labels of an image by each method."""
    cam = read_cam(cam_file)
    cams = torch.from_numpy(full_resolution(cam))
    posterior = dense_crf(torch.from_numpy(read_image(image)), cams**power, RefineSettings().crf)
    ids = cam.ids.astype(np.uint8)
    yield CRF, ids[posterior.argmax(0).numpy()]
    asked, whole = region_prompts(cams, posterior), filled(truth)
    for kind in KINDS:
        masks = stand_in(whole, asked, kind)
        for margin, covered, weight in product(MARGINS, COVERED, WEIGHTS):
            found = named(posterior, masks, margin=margin, covered=covered, weight=weight)
            yield Method(kind, margin, covered, weight), ids[found.argmax(0).numpy()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--crf-power", type=float, default=1.0)
    options = parser.parse_args()
    config, images = open_run(options.run, options.split)
    items = [item for item in images.items if item.truth is not None][:: options.every]
    counts: dict[Method, list[Counts]] = defaultdict(list)
    for item in items:
        truth = read_mask(item.truth)
        cam_file = options.run / f"cams/pot/{item.id}.npz"
        for method, labels in labels_of(item.path, cam_file, truth, options.crf_power):
            counts[method].append(counts_of(labels, truth, len(images.classes)))
    ids = class_ids(config.evaluate.class_names(), images.classes) or range(len(images.classes) + 1)
    every = {method: np.stack(own) for method, own in counts.items()}

    def gain(method: Method) -> float:
        first, crf = (every[each][::2].sum(0).astype(np.float64) for each in (method, CRF))
        return float(miou(first, ids) - miou(crf, ids))

    def mean_gain(values: tuple[float, ...]) -> float:
        return float(np.mean([gain(Method(kind, *values)) for kind in KINDS]))

    print(f"{len(items)} images\n\n| margin | covered | weight | mean gain, choosing |\n|---|---|---|---|")
    for values in product(MARGINS, COVERED, WEIGHTS):
        print(f"| {values} | {mean_gain(values):.1f} |")
    margin, covered, weight = max(product(MARGINS, COVERED, WEIGHTS), key=mean_gain)
    print("\n| masks | margin | covered | weight | gain, choosing | mIoU, reporting | minus CRF |")
    print("|---" * 7 + "|")
    settings = dict.fromkeys([(margin, covered, weight), (margin, COVERED[-1], weight), (margin, covered, WEIGHTS[0])])
    for method in (CRF, *(Method(kind, *values) for kind in KINDS for values in settings)):
        own, crf = every[method][1::2], every[CRF][1::2]
        print("|", *(f"{value} |" for value in method), f"{gain(method):.1f} | {estimate([own], ids)} | ", end="")
        print(f"{paired([own], [crf], ids)} |")


if __name__ == "__main__":
    main()
