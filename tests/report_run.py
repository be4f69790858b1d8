"""A small run folder for the tests of the report: six generated images, all that a run can hold, hostile names."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.core.files import write_text
from tag2mask.data import ImageItem, ImageSet, write_mask
from tag2mask.data.cam_files import CamFile, write_cam
from tag2mask.quality.ranking import IMAGES
from tag2mask.report import ReportSettings

HOSTILE = '<script>alert("class")</script>'
CLASSES = ("disc", HOSTILE, "box & co")
IDS = ("a", "sub/b.c", "c' onerror='alert(1)", "<img src=x onerror=alert(2)>", "e", "f")
GRID, SIZE = (5, 6), (80, 96)
CLUSTERS = 2


@dataclass
class SmallReport(ReportSettings):
    """A report with small pictures."""

    width: int = 96
    lowest_confidence: int = 12


def build_run(folder: Path, *, truth: bool = True) -> tuple[Path, ImageSet]:
    """A run and its images: one or two tags each; the mask of the first is its truth, the others' are shifted."""
    run, items = folder / "run <b>", []
    for number, name in enumerate(IDS):
        tags = sorted({number % 3 + 1, (number + number % 2) % 3 + 1})
        mask = _scene(tags)
        image = np.random.default_rng(number).integers(0, 60, (*SIZE, 3)) + 60 * (mask[..., None] % 4) + 10
        path = folder / "images" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
        truth_path = folder / "truth" / f"{number}.png"
        write_mask(truth_path, mask)
        items.append(ImageItem(name, path, tuple(tags), truth_path if truth else None))
        for kind in ("classifier", "prototype", "pot"):
            write_cam(run / "cams" / kind / f"{name}.npz", make_cam(kind, tags, number))
        write_mask(run / "masks" / f"{name}.png", np.roll(np.where(mask == 255, 0, mask), 7 * number, axis=1))
    _write_texts(run)
    return run, ImageSet(CLASSES, tuple(items), folder)


def make_cam(kind: str, tags: list[int], number: int) -> CamFile:
    """CAMs on a grid of 5 × 6; the kinds but ``classifier`` have background, ``pot`` an allocation with padding."""
    rng = np.random.default_rng(100 + number)
    maps = rng.random((len(tags), *GRID)) * np.linspace(0.2, 1, GRID[1])
    ids = np.array(tags)
    if kind != "classifier":
        maps, ids = np.concatenate([1 - maps.max(axis=0, keepdims=True), maps]), np.concatenate([[0], ids])
    allocation = None
    if kind == "pot":
        allocation = (maps.argmax(axis=0) * CLUSTERS + (np.arange(GRID[1]) >= 3)).astype(np.uint8)
        allocation[-1, -1] = 255
    clusters = None if allocation is None else CLUSTERS
    return CamFile(ids.astype(np.int32), maps.astype(np.float16), SIZE, allocation, clusters)


def write_ranking(run: Path, ids: tuple[str, ...]) -> None:
    """The ranking of the stage `confidence`: these images, least certain first."""
    quoted = [f'"{name}"' for name in ids]
    lines = [
        f"{name},0.{place}1,{HOSTILE.replace(chr(34), '')},0.0,network disagrees" for place, name in enumerate(quoted)
    ]
    write_text(run / IMAGES, "\n".join(["image,confidence,class,class_confidence,reason", *lines]) + "\n")


def _scene(tags: list[int]) -> np.ndarray:
    """A rectangle for each tag, ignored pixels at its border: uint8 (H, W)."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    for place, tag in enumerate(tags):
        left = 8 + 40 * place
        mask[18:66, left : left + 34] = 255
        mask[20:64, left + 2 : left + 32] = tag
    return mask


def _write_texts(run: Path) -> None:
    names = ("background", *CLASSES[:2])

    def figures(miou: float, **more: object) -> dict[str, object]:
        iou: dict[str, float | None] = {name: miou + 0.02 * place for place, name in enumerate(names)}
        over = {name: 0.6 * (1 - float(value or 0)) for name, value in iou.items()}
        under = {name: 0.4 * (1 - float(value or 0)) for name, value in iou.items()}
        iou[CLASSES[2]] = None
        result = {"miou": miou, "pixel_accuracy": 0.8, "iou": iou, "over_activation": over, "under_activation": under}
        return {**result, "images": 6, "threshold": None, "sweep": None, **more}

    classifier = figures(0.4, threshold=0.3, sweep={"0.2": 0.35, "0.3": 0.4, "0.4": 0.3})
    pot = figures(0.55, miou_present=0.41, miou_all=0.5501)
    cams = {"pot": pot, "classifier": classifier, "prototype": figures(0.375)}
    metrics = {"refine": {"train": {"argmax": figures(0.56)}}, "cams": {"train": cams, HOSTILE: cams}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "config.yaml").write_text(f"data:\n  classes: '{HOSTILE}'\n")
    (run / "environment.json").write_text(json.dumps({"torch": {"version": "2.9"}, HOSTILE: [HOSTILE]}))
    lines = [
        {
            "step": step,
            "loss": 1 / step,
            "classification": 0.8 / step,
            "consistency": 0.2 / step,
            "learning_rate": 1e-4,
            "images_per_second": 30.0,
            "seconds": 0.5 * step,
            "dropped_<i>": 2,
        }
        for step in range(1, 41)
    ]
    (run / "train").mkdir()
    (run / "train" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
