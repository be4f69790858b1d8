"""The answers at the top of the page: how good the masks are, what to look at, what to do; and the table of classes."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tag2mask.cams.kinds import command_of
from tag2mask.core.files import read_json
from tag2mask.data import ImageSet
from tag2mask.prediction.predictor import SEGMENT_NETWORK
from tag2mask.quality.calibration import EVIDENCE, NOT_RELIABLE
from tag2mask.quality.ranking import QUALITY, RankedClass, Ranking, small_masks_sentence
from tag2mask.report.figures import Split
from tag2mask.report.ranking import Notice, attempt

_FIGURES = ("images", "spearman", "low", "high", "worst_tenth", "chance")

_WORST = 3
"""Classes that are named as the worst ones."""


@dataclass(frozen=True)
class ClassRow:
    """A class in the masks of a run, without ground truth.

    Attributes:
        images: number of images with the tag; of those with a mask, after the stage `confidence`.
        masks: number of their masks that have a pixel of the class; None without output of the stage `confidence`.
        share: mean share of the class in these images, in [0, 1]; None if unknown.
        confidence: mean of the known confidences; None if all are unknown.
        unknown: number of images in which the confidence of the class is unknown.
        corrections: number of images with the tag that were accepted, corrected or rejected.
    """

    name: str
    images: int
    masks: int | None
    share: float | None
    confidence: float | None
    unknown: int
    corrections: int


def class_rows(images: ImageSet, ranked: Sequence[RankedClass]) -> list[ClassRow]:
    """The classes with a tagged image, in the order of their ids; ``ranked`` is empty without `confidence`."""
    tagged, decided, verdicts = Counter[int](), Counter[int](), images.corrections.verdicts
    for item in images.items:
        tagged.update(item.tags)
        decided.update(item.tags if item.id in verdicts else ())
    by_name: dict[str, list[RankedClass]] = {name: [] for name in images.classes}
    for each in ranked:
        by_name.get(each.class_name, []).append(each)
    rows = []
    for class_id, name in enumerate(images.classes, 1):
        own = by_name[name]
        count = len(own) if ranked else tagged[class_id]
        if not count:
            continue
        shares = [each.share for each in own if each.share is not None]
        known = [each.confidence for each in own if each.confidence is not None]
        masks = sum(share > 0 for share in shares) if ranked else None
        rows.append(ClassRow(name, count, masks, _mean(shares), _mean(known), len(own) - len(known), decided[class_id]))
    return rows


def worst_classes(splits: Sequence[Split], rows: Sequence[ClassRow]) -> list[tuple[str, str]]:
    """The classes with the lowest values: IoU in the last result of the first split, or without one, confidence."""
    if splits:
        split, last = splits[0], splits[0].results[-1]
        found = [(each.iou, name) for name, each in last.classes.items() if split.counts(name) and name != "background"]
        return [(name, f"{100 * iou:.1f}\u00a0%") for iou, name in sorted(found)[:_WORST]]
    estimated = [(row.confidence, row.name) for row in rows if row.confidence is not None]
    return [(name, f"{confidence:.2f}") for confidence, name in sorted(estimated)[:_WORST]]


def estimated_quality(ranking: Ranking) -> tuple[float | None, int, int]:
    """The mean of the known confidences, the number of images that have one, and the number of those to check."""
    checked = [each.confidence for each in ranking.by_id.values() if each.is_to_check]
    known = [each for each in checked if each is not None]
    return _mean(known), len(known), len(checked)


def next_steps(run: Path) -> dict[str, str]:
    """What to do with a run next: command lines, and the purpose of each."""
    folder, exported, predicted = (shlex.quote(f"{run}{end}") for end in ("", "-coco", "-predictions"))
    if not (run / "masks").is_dir():
        return {command_of(run): "finish the run"}
    steps = {f"tag2mask review {folder}": "accept or correct masks, least certain first"}
    if (run / SEGMENT_NETWORK).is_file():
        steps[f"tag2mask segment {folder} --restart segment"] = "train the network again after corrections"
        steps[f"tag2mask predict {folder} IMAGES --out {predicted}"] = "masks of images without tags"
    else:
        steps[f"tag2mask segment {folder}"] = "train a network that needs no tags"
    return steps | {f"tag2mask export coco {folder} --out {exported}": "masks for other tools"}


def link(path: Path, run: Path) -> str:
    """The address of a file, relative to the page if it is on the same drive."""
    if path.resolve().drive != run.resolve().drive:
        return path.resolve().as_uri()
    path = path.parent.resolve() / path.name
    return quote(os.fsencode(Path(os.path.relpath(path, run.resolve())).as_posix()))


def quality_sentence(run: Path, ranking: Ranking, notice: Notice) -> str:
    """The reliability of the ranking: its agreement with ground truth, and masks too small to rank; may be empty."""
    small = small_masks_sentence(run) if ranking.by_id else ""
    return " ".join(filter(None, (_agreement(run, notice), f"{small[0].upper()}{small[1:]}." if small else "")))


def _agreement(run: Path, notice: Notice) -> str:
    measured = attempt(notice, read_json, run / QUALITY) if (run / QUALITY).is_file() else None
    if not isinstance(measured, dict):
        return ""
    limit = f" {NOT_RELIABLE.capitalize()}." if measured.get("ranks") is False else ""
    try:
        images, spearman, low, high, shared, chance = (float(measured[name]) for name in _FIGURES)
    except (KeyError, TypeError, ValueError):  # null if nothing can be ranked
        return limit.strip()
    return (
        f"On {measured.get('split')}, where {images:,.0f} images have {EVIDENCE}, the rank correlation of confidence "
        f"with mean IoU is {spearman:.2f} [{low:.2f}, {high:.2f}], and the least certain tenth holds "
        f"{100 * shared:.0f} % of the worst tenth ({100 * chance:.0f} % by chance).{limit}"
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
