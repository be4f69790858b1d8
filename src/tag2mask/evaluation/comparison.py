"""Comparison of a run with another run, class by class, and with published figures on VOC and COCO."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tag2mask.cams.kinds import KINDS
from tag2mask.core.errors import UsageError

_SAME = ("images", "chosen")
"""Figures that must be equal in both runs."""


@dataclass(frozen=True)
class Comparison:
    """Two networks on one split.

    Attributes:
        own: the figures of this run's predictions, as in `Figures.to_json`.
        other: the figures of the other run's predictions.
        masks: the figures of this run's masks on the split, by refinement method.
    """

    split: str
    own: Mapping[str, Any]
    other: Mapping[str, Any]
    masks: Mapping[str, Mapping[str, Any]]

    @property
    def share(self) -> float | None:
        """The ratio of the two mIoU; None without one."""
        return ratio(self.own["miou"], self.other["miou"])

    def to_json(self) -> dict[str, Any]:
        """The split, both mIoU and their ratio, and the same for each class."""
        classes = {
            name: {"own": value, "other": other, "share": ratio(value, other)}
            for (name, value), other in zip(self.own["iou"].items(), self.other["iou"].values(), strict=True)
        }
        return {
            "split": self.split,
            "own": self.own["miou"],
            "other": self.other["miou"],
            "share": self.share,
            "masks": {method: figures["miou"] for method, figures in self.masks.items()},
            "classes": classes,
        }


def compare(own: Mapping[str, Any], other: Mapping[str, Any], splits: Collection[str]) -> list[Comparison]:
    """Compare two runs' networks on each split that both were evaluated on.

    Args:
        own: the figures in a run's metrics.json.
        other: those of the other run.

    Raises:
        UsageError: they share no split, or were evaluated on different images or classes.
    """
    mine, theirs = own.get("segment", {}), other.get("segment", {})
    shared = [split for split in splits if split in mine and split in theirs]
    if not shared:
        raise UsageError(
            "the two runs share no split on which both evaluated a segmentation network; this one has "
            f"{', '.join(mine) or 'none'}, the other {', '.join(theirs) or 'none'}: `tag2mask segment RUN`, then "
            "`tag2mask evaluate RUN`, with the same --evaluate.splits"
        )
    found = []
    for split in shared:
        pair = mine[split]["predictions"], theirs[split]["predictions"]
        differing = [name for name in _SAME if pair[0][name] != pair[1][name]]
        if differing or list(pair[0]["iou"]) != list(pair[1]["iou"]):
            raise UsageError(
                f"the two runs cannot be compared on {split}: {', '.join(differing) or 'the class lists'} differ; "
                "evaluate both with the same data and --evaluate.classes"
            )
        found.append(Comparison(split, *pair, own.get("refine", {}).get(split, {})))
    return found


def ratio(own: float | None, other: float | None) -> float | None:
    """The ratio of two figures; None where one is unknown or the second is 0."""
    return own / other if own is not None and other else None


POT = "POT"
CLIP_ES = "CLIP-ES"
SOURCES = {POT: "POT: CVPR 2025, as others cite it", CLIP_ES: "CLIP-ES: its base CAMs"}
"""Sources of the published figures; POT's are quoted from papers that cite it."""


@dataclass(frozen=True)
class Published:
    """A published mIoU, in per cent, and its source."""

    miou: float
    source: str

    def __str__(self) -> str:
        return f"{self.miou:.1f} {self.source}"


@dataclass(frozen=True)
class Benchmark:
    """A data set with published figures.

    Attributes:
        classes: number of classes in the mean, background included.
        splits: number of images by split.
        figures: by stage and split; those of `cams` are POT's.
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
"""By data layout. VOC's test split has no public ground truth."""


@dataclass(frozen=True)
class PublishedComparison:
    """The published figures for a run.

    Attributes:
        figures: by (stage, split, kind).
        note: their sources, or the reason why there are none.
    """

    figures: Mapping[tuple[str, str, str], Published]
    note: str


def compare_with_published(
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]], data_kind: str
) -> PublishedComparison | None:
    """The published figures for a run over the same images and classes; None if there are none for its data.

    Args:
        figures: {stage: {split: {kind: {figure: value}}}}, as in metrics.json.
        data_kind: the layout of the data, as in `data.kind`.
    """
    benchmark = BENCHMARKS.get(data_kind)
    if benchmark is None:
        return None
    found, reasons = {}, list[str]()
    for (stage, split), published in benchmark.figures.items():
        for kind, values in figures.get(stage, {}).get(split, {}).items():
            if stage == "cams" and not (kind in KINDS and KINDS[kind].is_published):
                continue
            reason = _difference(values, benchmark, split)
            if reason is None:
                found[stage, split, kind] = published
            else:
                reasons.append(reason)
    notes = [SOURCES[source] for source in dict.fromkeys(published.source for published in found.values())]
    if reasons:
        notes.append(f"figures {' or '.join(dict.fromkeys(reasons))} are not comparable with published ones")
    return PublishedComparison(found, "; ".join(notes)) if notes else None


def _difference(values: Mapping[str, Any], benchmark: Benchmark, split: str) -> str | None:
    """How classes or images differ from those of the published figure; None if they do not."""
    classes = len(values["iou"] if values["chosen"] is None else values["chosen"])
    if classes != benchmark.classes:
        return f"over {classes} of the {benchmark.classes} classes of {benchmark.name}"
    if values["images"] != benchmark.splits[split]:
        return f"over {values['images']} of the {benchmark.splits[split]} images of {benchmark.name} {split}"
    return None
