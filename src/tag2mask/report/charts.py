"""Charts of the report: their description, and their layout for SVG. The template draws all of them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tag2mask.report.figures import Split

WIDTH, HEIGHT = 350, 235
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40
"""The chart and its margins in SVG units, about CSS pixels."""

MOST_POINTS = 240
"""A longer curve is averaged in bins of equal size."""

TRAIN_LOSSES = {name: name for name in ("loss", "classification", "consistency", "external")}
EDGE_LOSSES = {"loss": "loss", "background": "background", "foreground": "foreground", "negative": "different"}
"""Names of the losses in a training log, at most four."""

_TITLES = {"learning_rate": "Learning rate", "images_per_second": "Images per second"}
_NOT_DRAWN = frozenset({"step", "seconds"})
_MOST_CHARTS = 8

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: for the legend.
        tone: name of its colour in the style sheet.
        points: (x, y), x ascending, all finite.
        smooth: draw the trend, with the points faint behind it; for more than two points.
        dashed: for a reference line.
        mark: an (x, y) to mark.
    """

    name: str
    tone: str
    points: Points
    smooth: bool = False
    dashed: bool = False
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """The description of a chart: at least one line with at least one point."""

    title: str
    x_label: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Tick:
    """A tick: its place in the chart and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class DrawnLine:
    """A `Line` in SVG units; ``path`` and ``faint`` are SVG path data."""

    name: str
    tone: str
    path: str
    faint: str
    dashed: bool
    mark: tuple[float, float] | None


@dataclass(frozen=True)
class Drawing:
    """A chart for the template.

    ``values`` is JSON for the read-out at the pointer: per line name, tone and points as [x, y, x label, y label].
    """

    title: str
    x_label: str
    lines: tuple[DrawnLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    values: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def sweep_charts(splits: Sequence[Split]) -> list[Chart]:
    """For each split with a sweep: mIoU by threshold, and the kinds without a threshold as dashed lines."""
    charts = []
    for split in splits:
        lines: list[Line] = []
        for result in split.results:
            if len(result.sweep) > 1 and result.miou is not None:
                points = [(at, 100 * value) for at, value in result.sweep]
                mark = None if result.threshold is None else (result.threshold, 100 * result.miou)
                lines.append(Line(result.title, result.tone, points, mark=mark))
        if not lines:
            continue
        ends = min(line.points[0][0] for line in lines), max(line.points[-1][0] for line in lines)
        for result in split.results:
            if not result.sweep and result.miou is not None and result.stage == "cams":
                points = [(end, 100 * result.miou) for end in ends]
                lines.append(Line(result.title, result.tone, points, dashed=True))
        charts.append(Chart(f"Mean IoU in %, {split.name}", "background threshold", lines))
    return charts


def log_charts(
    log: Sequence[dict[str, float]], title: str, losses: Mapping[str, str], *, others: bool = False
) -> list[Chart]:
    """A chart of the losses in a training log; with ``others``, one for each other number too, eight at most."""
    keys = list(dict.fromkeys(key for entry in log for key in entry if key not in _NOT_DRAWN))
    tones = {key: f"loss-{number}" for number, key in enumerate(losses)}
    lines = [_log_line(log, key, name, tones[key]) for key, name in losses.items() if key in keys]
    charts = [Chart(title, "step", lines)] if lines else []
    rest = [key for key in _TITLES if key in keys]
    rest += sorted(key for key in keys if key not in losses and key not in _TITLES)
    for key in rest[: _MOST_CHARTS - len(charts)] if others else []:
        name = _TITLES.get(key, key.replace("_", " ").capitalize())
        charts.append(Chart(name, "step", [_log_line(log, key, name, "plain")]))
    return charts


def draw(chart: Chart) -> Drawing:
    """Lay out a chart. The vertical axis begins at 0 or below."""
    lines = chart.lines
    x_values = [x for line in lines for x, _ in line.points]
    y_values = [y for line in lines for _, y in line.points]
    whole = all(x == round(x) for x in x_values)
    x_low, x_high = _widen(min(x_values), max(x_values))
    y_ticks = ticks(min(0.0, min(y_values)), max(y_values))
    y_low, y_high = y_ticks[0], max(y_ticks[-1], max(y_values))
    x_ticks = [value for value in ticks(x_low, x_high) if x_low <= value <= x_high]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        right, down = LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        return round(right, 1), round(down, 1)

    drawn, values = [], []
    for line in lines:
        binned = _bin(line.points)
        strong = _smooth(binned) if line.smooth else binned
        path = _path([place(x, y) for x, y in strong])
        faint = _path([place(x, y) for x, y in binned]) if line.smooth else ""
        mark = place(*line.mark) if line.mark else None
        drawn.append(DrawnLine(line.name, line.tone, path, faint, line.dashed, mark))
        points = [[*place(x, y), f"{round(x) if whole else x:.6g}", f"{y:.4g}"] for x, y in strong]
        values.append({"name": line.name, "tone": line.tone, "points": points})
    return Drawing(
        chart.title,
        chart.x_label,
        tuple(drawn),
        tuple(Tick(place(value, y_low)[0], number(value)) for value in x_ticks),
        tuple(Tick(place(x_low, value)[1], number(value)) for value in y_ticks),
        json.dumps(values, ensure_ascii=True),
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` or below to ``high`` or above, evenly spaced."""
    low, high = _widen(low, high)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def number(value: float) -> str:
    """A short label of a number: ``1.5e-4``, ``0.25``, ``40``, ``12k``."""
    size = abs(value)
    if size >= 10_000:
        text = f"{size / 1000:g}k"
    elif 0 < size < 1e-3:
        mantissa, exponent = f"{size:.3e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    else:
        text = f"{size:g}"
    return f"−{text}" if value < 0 else text


def _widen(low: float, high: float) -> tuple[float, float]:
    """The range, or a wider one if it is empty."""
    return (low, high) if high - low > 1e-9 * max(abs(low), abs(high), 1e-20) else (low, low + (abs(low) or 1.0))


def _bin(points: Points) -> Points:
    if len(points) <= MOST_POINTS:
        return points
    parts = np.array_split(np.asarray(points, dtype=np.float64), MOST_POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def _smooth(points: Points) -> Points:
    """A local linear fit to an eighth of the curve, which unlike a running mean is not biased at the ends."""
    x, y = np.asarray(points, dtype=np.float64).T
    reach = max(2, len(points) // 16)
    smooth = []
    for index, here in enumerate(x):
        window = slice(max(0, index - reach), index + reach + 1)
        across, up = x[window] - x[window].mean(), y[window]
        slope = float((across * up).sum() / (across * across).sum())
        smooth.append((float(here), float(up.mean() + slope * (here - x[window].mean()))))
    return smooth


def _log_line(log: Sequence[dict[str, float]], key: str, name: str, tone: str) -> Line:
    points = [(entry["step"], entry[key]) for entry in log if key in entry]
    return Line(name, tone, points, smooth=len(points) > 20)


def _path(places: Sequence[tuple[float, float]]) -> str:
    if len(places) == 1:
        places = [*places, places[0]]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
