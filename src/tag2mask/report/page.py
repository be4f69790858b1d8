"""The page: the contents of a run folder as one HTML file without references to other files."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tag2mask.core.errors import UsageError
from tag2mask.core.files import read_json, write_text
from tag2mask.data import ImageSet, class_colour, css
from tag2mask.quality.ranking import CLASSES, Ranking, read_classes
from tag2mask.report.agreement import read_agreements
from tag2mask.report.charts import EDGE_LOSSES, TRAIN_LOSSES, Chart, draw, log_charts, sweep_charts
from tag2mask.report.figures import Split, cam_thresholds, read_log, read_splits
from tag2mask.report.gallery import Gallery
from tag2mask.report.pictures import heat_colours
from tag2mask.report.ranking import Selection, attempt, least_certain, select
from tag2mask.report.settings import ReportSettings
from tag2mask.report.summary import class_rows, estimated_quality, next_steps, quality_sentence, worst_classes

FOLDER = Path(__file__).parent
MOST_NOTICES = 20


@dataclass
class Found:
    """The contents of the run folder except pictures; empty if a file is absent.

    Attributes:
        config: config.yaml as text.
        environment: environment.json, flattened to (name, value).
        splits: the content of metrics.json.
        steps, seconds: the length of the training by its log.
        notices: messages about files that could not be read or shown, in order, without repetitions.
    """

    config: str = ""
    environment: list[tuple[str, str]] = field(default_factory=list)
    splits: tuple[Split, ...] = ()
    charts: list[Chart] = field(default_factory=list)
    steps: int | None = None
    seconds: float | None = None
    notices: dict[str, None] = field(default_factory=dict)

    def notice(self, sentence: str) -> None:
        """Add a notice to the page."""
        self.notices[sentence] = None


def write_report(
    run: Path,
    images: ImageSet,
    settings: ReportSettings,
    *,
    ranked: ImageSet | None = None,
    notices: Sequence[str] = (),
) -> Path:
    """Write the report of a run, the same page for the same inputs. Unreadable files are named on it.

    Args:
        run: the run folder.
        images: the images of the run; their masks are the ground truth.
        ranked: the images of the stage `confidence`, if they are not ``images``.
        notices: sentences about the data for the top of the page.

    Returns:
        the path of the page, ``run / "report.html"``.

    Raises:
        UsageError: the run folder does not exist.

    Source: ours.
    """
    if not run.is_dir():
        raise UsageError(f"{run} is not a run folder; give the folder that was passed as --out")
    found = _gather(run)
    ranking = attempt(found.notice, Ranking.of, run) or Ranking({})
    selection = select(run, images, ranking, settings, found.notice)
    gallery = Gallery(run, images, settings, cam_thresholds(found.splits), found.notice)
    cards = gallery.draw(selection.shown)
    own = images if ranked is None else ranked
    first = replace(gallery, images=own).draw(least_certain(own, ranking, settings), brief=True)
    agreements = read_agreements(replace(gallery, images=own))
    table = attempt(found.notice, lambda: list(read_classes(run))) if (run / CLASSES).is_file() else None
    rows = class_rows(own, table or [])
    script = _text("script.js")
    every = [*first, *(card for each in agreements for card, _ in each.least), *cards]
    page = (
        _environment()
        .get_template("template.html")
        .render(
            style=Markup(_text("style.css")),  # style and script are the only texts that are not escaped
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            name=run.resolve().name,
            images=images,
            found=found,
            cards=cards,
            filters=gallery.filters(every),
            count=len(every),
            charts=[draw(chart) for chart in found.charts],
            first=first,
            agreements=agreements,
            classes=rows,
            worst=worst_classes(found.splits, rows),
            estimate=estimated_quality(ranking),
            commands=next_steps(run.resolve()),
            about_data=notices,
            quality=quality_sentence(run, ranking, found.notice),
            network=any(each.ranked is not None and each.ranked.by_network for each in first),
            background=gallery.shades(0),
            clusters=gallery.clusters,
            heat=[css(colour) for colour in heat_colours()[::23]],
            order=_order_sentence(selection, len(cards)),
            colours={name: class_colour(number) for number, name in enumerate(("background", *images.classes))},
            most_notices=MOST_NOTICES,
        )
    )
    path = run / "report.html"
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))  # a file name may hold what UTF-8 cannot
    return path


def _gather(run: Path) -> Found:
    found = Found()
    if (run / "config.yaml").is_file():
        found.config = (run / "config.yaml").read_text(encoding="utf-8", errors="replace")
    if (run / "environment.json").is_file():
        environment = attempt(found.notice, read_json, run / "environment.json")
        found.environment = [] if environment is None else _flatten(environment)
    if (run / "metrics.json").is_file():
        found.splits = read_splits(attempt(found.notice, read_json, run / "metrics.json"))
    found.charts = sweep_charts(found.splits)
    for stage, title, losses in (
        ("train", "Loss", TRAIN_LOSSES),
        ("edges", "Loss of the edge network", EDGE_LOSSES),
    ):
        if not (run / stage / "log.jsonl").is_file():
            continue
        log, notices = read_log(run / stage / "log.jsonl")
        found.charts += log_charts(log, title, losses, others=stage == "train")
        for sentence in notices:
            found.notice(sentence if stage == "train" else f"{stage}: {sentence}")
        if stage == "train" and log:
            found.steps, found.seconds = int(log[-1]["step"]), _elapsed(log)
    return found


def _elapsed(log: Sequence[dict[str, float]]) -> float | None:
    """The seconds of the training; the log's clock restarts at each resume."""
    seconds = [entry["seconds"] for entry in log if "seconds" in entry]
    pairs = zip([0.0, *seconds], seconds, strict=False)
    return sum(now - before if now >= before else now for before, now in pairs) if seconds else None


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as rows: ``[("torch.version", "2.12"), …]``."""
    if isinstance(value, dict):
        names = {key: f"{prefix}.{key}" if prefix else str(key) for key in value}
        return [row for key, inner in value.items() for row in _flatten(inner, names[key])]
    if isinstance(value, list):
        return [(prefix, ", ".join(map(str, value)))]
    return [(prefix, "–" if value is None else str(value))]


def _order_sentence(selection: Selection, cards: int) -> str:
    """The sentence above the gallery about its selection and order."""
    if not cards:
        return ""
    order = {
        "truth": "worst first, by the mean IoU of the mask in the image",
        "confidence": "least certain first",
        "list": "in the order of the data set; `tag2mask confidence` ranks them",
    }[selection.order]
    if cards == selection.available:
        return f"All {cards} image{'s' * (cards != 1)}, {order}."
    thinned = "" if selection.ranked == selection.available else f" ({selection.ranked:,} of them ranked)"
    return f"{cards} of {selection.available:,} images{thinned}, evenly spaced; {order}."


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["signed"] = lambda value: f"{100 * value:+.1f}".replace("-", "−")
    environment.filters["confidence"] = lambda value: "unknown" if value is None else f"{value:.2f}"
    environment.filters["duration"] = _duration
    return environment


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _duration(seconds: float) -> str:
    """``42 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
