"""Published figures of VOC and COCO, to be set beside those of a run that was measured on the same photographs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

POT = "POT"
CLIP_ES = "CLIP-ES"
SOURCES = {POT: "POT: CVPR 2025, as others cite it", CLIP_ES: "CLIP-ES: its base CAMs"}
"""Whose the figures are; those of POT are quoted from papers that cite it."""


@dataclass(frozen=True)
class Published:
    """A figure: mIoU in per cent, and whose it is."""

    miou: float
    whose: str

    def __str__(self) -> str:
        return f"{self.miou:.1f} {self.whose}"


@dataclass(frozen=True)
class Benchmark:
    """A data set with published figures.

    Attributes:
        name: for people.
        classes: how many are measured, background among them.
        splits: the photographs of each split; under every name that it has.
        figures: by stage and split; of `cams`, those of POT alone.
    """

    name: str
    classes: int
    splits: Mapping[str, int]
    figures: Mapping[tuple[str, str], Published]


BENCHMARKS = {
    "voc": Benchmark(
        "PASCAL VOC 2012",
        21,
        {"train": 1464, "val": 1449},
        {
            ("seeds", "train"): Published(70.8, CLIP_ES),
            ("cams", "train"): Published(75.0, POT),
            ("refine", "train"): Published(79.3, POT),
            ("segment", "val"): Published(76.1, POT),
        },
    ),
    "coco": Benchmark(
        "MS COCO 2014",
        81,
        {"val": 40137, "val2014": 40137},
        {("segment", "val"): Published(47.9, POT), ("segment", "val2014"): Published(47.9, POT)},
    ),
}
"""By layout. VOC's test has no public truth, so that nothing here is measured on it (published: 76.7)."""

_POT_KINDS = ("pot", "fused")
"""The kinds of CAM that the method ends with."""


@dataclass(frozen=True)
class Beside:
    """What stands beside the figures of a run.

    Attributes:
        figures: by (stage, split, kind).
        note: whose they are, or why there is none.
    """

    figures: Mapping[tuple[str, str, str], Published]
    note: str


def published_beside(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], data_kind: str) -> Beside | None:
    """The published figures for a run's, where both are over the same photographs and classes.

    Args:
        figures: {stage: {split: {kind: {figure: value}}}}, as metrics.json has them.
        data_kind: the layout, as `data.kind` has it, or as it was recognised.

    Returns:
        None where nothing is published of such data, stages and splits.
    """
    benchmark = BENCHMARKS.get(data_kind)
    if benchmark is None:
        return None
    found, other = {}, []
    for stage, splits in figures.items():
        for split, kinds in splits.items():
            published = benchmark.figures.get((stage, split))
            if published is None:
                continue
            for kind, values in kinds.items():
                if stage == "cams" and kind not in _POT_KINDS:
                    continue
                why = _difference(values, benchmark, split)
                if why is None:
                    found[stage, split, kind] = published
                else:
                    other.append(why)
    notes = [SOURCES[whose] for whose in dict.fromkeys(each.whose for each in found.values())]
    if other:
        notes.append(f"published figures are not beside those {' or '.join(dict.fromkeys(other))}: not comparable")
    return Beside(found, "; ".join(notes)) if notes else None


def _difference(values: Mapping[str, Any], benchmark: Benchmark, split: str) -> str | None:
    """What a figure is over, if not over what the published one is."""
    classes = len(values["iou"] if values["chosen"] is None else values["chosen"])
    if classes != benchmark.classes:
        return f"over {classes} of the {benchmark.classes} classes of {benchmark.name}"
    if values["images"] != benchmark.splits[split]:
        return f"over {values['images']} of the {benchmark.splits[split]} photographs of {benchmark.name} {split}"
    return None
