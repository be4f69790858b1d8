"""A run's segmentation network beside another run's, class by class: how much of full supervision it reaches."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tag2mask.errors import UsageError
from tag2mask.evaluate.figures import absence

_SAME = ("images", "chosen")
"""Figures that must agree for others to be comparable."""


@dataclass(frozen=True)
class Comparison:
    """Two networks on one split.

    Attributes:
        split: where they were measured.
        own: the figures of this run's predictions, as `Figures.to_json` has them.
        other: of the other run's.
        masks: of this run's masks on the split, by refinement method; empty where it has none there.
    """

    split: str
    own: Mapping[str, Any]
    other: Mapping[str, Any]
    masks: Mapping[str, Mapping[str, Any]]

    @property
    def share(self) -> float | None:
        """The mIoU as a share of the other's; None without one."""
        return _share(self.own["miou"], self.other["miou"])

    def to_json(self) -> dict[str, Any]:
        """The split, both mIoU and their ratio, and the same of every class."""
        classes = {
            name: {"own": value, "other": other, "share": _share(value, other)}
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

    def render(self) -> Table:
        """A table for the terminal: a row a class, the mean last, IoU in per cent."""
        caption = f"IoU in per cent; photographs: {self.own['images']}"
        table = Table(title=f"segmentation networks on {self.split}", caption=caption, caption_justify="left")
        table.add_column("class")
        for heading in (*(f"masks ({method})" for method in self.masks), "this run", "other", "this / other"):
            table.add_column(heading, justify="right")
        chosen = self.own["chosen"]
        for name, value in self.own["iou"].items():
            other = self.other["iou"][name]
            masks = [_per_cent(figures["iou"].get(name)) for figures in self.masks.values()]
            tagged = max(figures.get("absent", {}).get(name, 0) for figures in (self.own, self.other))
            shown = f"{name} ({absence(tagged)})" if tagged else name
            cells = [*masks, _per_cent(value), _per_cent(other), _per_cent(_share(value, other))]
            table.add_row(shown, *cells, style="dim" if chosen is not None and name not in chosen else None)
        table.add_section()
        masks = [_per_cent(figures["miou"]) for figures in self.masks.values()]
        means = [*masks, *map(_per_cent, (self.own["miou"], self.other["miou"], self.share))]
        table.add_row("mean IoU", *means, style="bold")
        return table


def compare(own: Mapping[str, Any], other: Mapping[str, Any], splits: Collection[str]) -> list[Comparison]:
    """Two runs' networks on every split that both were measured on.

    Args:
        own: the figures of a run, as its metrics.json has them.
        other: those of the other run.
        splits: which to look at.

    Raises:
        UsageError: they share no split, or were measured on other photographs or classes.
    """
    mine, theirs = own.get("segment", {}), other.get("segment", {})
    shared = [split for split in splits if split in mine and split in theirs]
    if not shared:
        raise UsageError(
            "the two runs share no split on which both measured a segmentation network; this one has "
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


def _share(own: float | None, other: float | None) -> float | None:
    return own / other if own is not None and other else None


def _per_cent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
