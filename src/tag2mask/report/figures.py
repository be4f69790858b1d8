"""metrics.json and training logs; malformed parts are skipped."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.cams.kinds import KINDS
from tag2mask.evaluation.figures import absence, other_means


@dataclass(frozen=True)
class Shares:
    """A class in a result: fractions of its union that sum to 1."""

    iou: float
    over: float
    under: float


@dataclass(frozen=True)
class Result:
    """The figures of one kind of CAM or mask on one split.

    Attributes:
        title: of the result.
        tone: name of its colour in the style sheet.
        kind: its name in metrics.json.
        stage: the stage that wrote it.
        miou, pixel_accuracy: in [0, 1]; None if unknown.
        other_means: a note about the mean IoU by other rules; empty where they do not differ.
        difference: mIoU minus that of the split's first result; None for the first.
        images: number of images.
        threshold: the best background threshold; None if the kind has a background.
        sweep: (threshold, mIoU), ascending; may be empty.
        classes: by class name; without classes that do not occur.
        chosen: names of the classes in the mean; None: all.
        absent: tagged classes without a true pixel, with the number of tagged images.
    """

    title: str
    tone: str
    kind: str
    stage: str
    miou: float | None
    pixel_accuracy: float | None
    other_means: str
    difference: float | None
    images: int | None
    threshold: float | None
    sweep: tuple[tuple[float, float], ...]
    classes: dict[str, Shares]
    chosen: tuple[str, ...] | None
    absent: dict[str, int]

    @property
    def mention(self) -> str:
        """The title within a sentence: ``classifier CAM``, ``POT CAM``."""
        keep = self.title[:2].isupper()
        return self.title if keep else self.title[:1].lower() + self.title[1:]


@dataclass(frozen=True)
class Split:
    """The results on one split."""

    name: str
    results: tuple[Result, ...]

    @property
    def images(self) -> int | None:
        """Number of images."""
        return max((result.images for result in self.results if result.images is not None), default=None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes with figures, in the order of metrics.json."""
        names = (name for result in self.results for name in (*result.classes, *result.absent))
        return tuple(dict.fromkeys(names))

    @property
    def compared(self) -> tuple[Result, Result] | None:
        """The first and the last kind of CAM, compared in the table's last column; None with fewer than two."""
        cams = [result for result in self.results if result.stage == "cams"] or list(self.results)
        return (cams[0], cams[-1]) if len(cams) > 1 else None

    @property
    def largest_change(self) -> float:
        """The largest difference in IoU in the table's last column, at least 0.01."""
        if self.compared is None:
            return 0.01
        before, after = (result.classes for result in self.compared)
        return max([0.01, *(abs(after[name].iou - before[name].iou) for name in after if name in before)])

    def remark(self, name: str) -> str:
        """Why the figures of a class are not valid; empty for most classes."""
        tagged = max((result.absent.get(name, 0) for result in self.results), default=0)
        return absence(tagged) if tagged else ""

    def counts(self, name: str) -> bool:
        """Whether the class is part of the mean."""
        return all(result.chosen is None or name in result.chosen for result in self.results)


def read_splits(metrics: Any) -> tuple[Split, ...]:
    """The results in the content of metrics.json by split, kinds of CAM first and in the order of the method."""
    found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for stage, splits in _dict(metrics).items():
        for split, kinds in _dict(splits).items():
            for kind, figures in _dict(kinds).items():
                if isinstance(figures, dict) and _fraction(figures.get("miou")) is not None:
                    found.setdefault(str(split), []).append((str(stage), str(kind), figures))
    order = {kind: place for place, kind in enumerate(KINDS)}
    result = []
    for split, entries in found.items():
        entries.sort(key=lambda entry: (entry[0] != "cams", order.get(entry[1], len(order))))
        first = _fraction(entries[0][2]["miou"])
        results = [_result(*entry, first=first if place else None, place=place) for place, entry in enumerate(entries)]
        result.append(Split(split, tuple(results)))
    return tuple(result)


def cam_thresholds(splits: Sequence[Split]) -> dict[str, float]:
    """The best background threshold of each kind of CAM, from the first split with one."""
    found: dict[str, float] = {}
    for split in splits:
        for result in split.results:
            if result.stage == "cams" and result.threshold is not None:
                found.setdefault(result.kind, result.threshold)
    return found


def read_log(path: Path) -> tuple[list[dict[str, float]], list[str]]:
    """The lines of a training log by step, and notices about skipped ones.

    Of a step that was logged twice, before and after a resume, the later line counts. Values that are not finite are
    left out.
    """
    steps: dict[float, dict[str, float]] = {}
    broken = missing = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not _is_number(entry.get("step")):
            broken += 1
            continue
        finite = {str(key): float(value) for key, value in entry.items() if _is_number(value)}
        missing += sum(isinstance(value, float) and not math.isfinite(value) for value in entry.values())
        steps[finite["step"]] = finite
    notices = []
    if broken:
        lines = "line is" if broken == 1 else "lines are"
        notices.append(f"{path.name}: {broken} {lines} not a JSON object with a step")
    if missing:
        values = "value is" if missing == 1 else "values are"
        notices.append(f"{path.name}: {missing} {values} not finite")
    return [steps[step] for step in sorted(steps)], notices


def _result(stage: str, kind: str, figures: dict[str, Any], *, first: float | None, place: int) -> Result:
    miou = _fraction(figures.get("miou"))
    over, under = _dict(figures.get("over_activation")), _dict(figures.get("under_activation"))
    classes = {}
    for name, value in _dict(figures.get("iou")).items():
        iou = _fraction(value)
        if iou is not None:
            classes[str(name)] = Shares(iou, _fraction(over.get(name)) or 0.0, _fraction(under.get(name)) or 0.0)
    sweep = []
    for at, value in _dict(figures.get("sweep")).items():
        threshold, level = _parsed(at), _fraction(value)
        if threshold is not None and level is not None:
            sweep.append((threshold, level))
    if stage == "cams" and kind in KINDS:
        title, tone = KINDS[kind].heading, KINDS[kind].tone
    else:
        others = {"cams": f"{kind} CAM", "refine": f"Masks, {kind}", "seeds": f"Base CAM, {kind}"}
        title, tone = others.get(stage, f"{stage}, {kind}"), "mask" if stage == "refine" else f"other-{place % 4}"
    chosen, images = figures.get("chosen"), figures.get("images")
    return Result(
        title=title,
        tone=tone,
        kind=kind,
        stage=stage,
        miou=miou,
        pixel_accuracy=_fraction(figures.get("pixel_accuracy")),
        other_means=other_means({name: _fraction(figures.get(name)) for name in ("miou", "miou_present", "miou_all")}),
        difference=None if first is None or miou is None else miou - first,
        images=images if isinstance(images, int) else None,
        threshold=_fraction(figures.get("threshold")),
        sweep=tuple(sorted(sweep)),
        classes=classes,
        chosen=tuple(map(str, chosen)) if isinstance(chosen, list) else None,
        absent={str(name): count for name, count in _dict(figures.get("absent")).items() if isinstance(count, int)},
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    """Whether it is finite; an int too large for a float is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _fraction(value: Any) -> float | None:
    return float(value) if _is_number(value) and 0 <= value <= 1 else None


def _parsed(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
