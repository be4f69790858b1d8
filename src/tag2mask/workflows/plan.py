"""The plan of a command (`--dry-run`): the work, disk space and time of each stage, by the records of the run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tag2mask.core.errors import first_five
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import run_images
from tag2mask.runs.run_folder import RunFolder
from tag2mask.runs.throughput import seconds_per_image, seconds_per_step
from tag2mask.stages.base import StagePlan
from tag2mask.stages.registry import STAGES, require_classes, to_delete


@dataclass(frozen=True)
class Plan:
    """What a command over a run folder would do.

    Attributes:
        images: their number.
        classes: the class list.
        stages: in order.
        shard: `i/n` of a command for a part of the images.
    """

    images: int
    classes: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    shard: str | None = None

    def lines(self) -> list[str]:
        """The plan as text: a line per stage, and the sum."""
        shown = [f"{self.images} images, {len(self.classes)} classes: {first_five(self.classes)}"]
        shown += [_line(stage) for stage in self.stages]
        if self.shard:
            shown.append(f"these are all images; --shard {self.shard} does its part of them")
        return [*shown, self._sum()]

    def _sum(self) -> str:
        """Disk space and time of all stages, and the stages without a record."""
        busy = [stage for stage in self.stages if stage.lacking or stage.steps]
        if not busy:
            return "in all: nothing is left to do but to measure and to report"
        known = [stage.seconds for stage in busy if stage.seconds is not None]
        unknown = [stage.stage for stage in busy if stage.seconds is None]
        sizes = [stage.bytes for stage in busy if stage.bytes is not None]
        parts = [f"{_size(sum(sizes))} of files by image"] if sizes else ["disk unknown here"]
        parts += [duration(sum(known))] if known else []
        parts += [f"time unknown here of {', '.join(unknown)}"] if unknown else []
        return f"in all: {'; '.join(parts)}; networks and figures come on top"

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)


def plan(config: Config, run: RunFolder, stages: Sequence[str], *, restart: str | None = None) -> Plan:
    """What each stage would do now.

    With ``restart``, outputs of other classes and settings are not refused where they would be deleted.

    Raises:
        UsageError: the command would refuse; weights, which may have to be downloaded, are not checked.
    """
    images = run_images(config, run)
    again = to_delete(run, restart, images.classes)
    require_classes(run, images.classes, again)
    for stage in (STAGES[name] for name in dict.fromkeys([*stages, *again])):
        run.check(stage, stage.fingerprint(config, images), restart=stage.name in again)
    made = tuple(STAGES[name].plan(config, run, images) for name in stages)
    return Plan(len(images.items), images.classes, made, config.shard)


def recorded_times(config: Config, run: RunFolder, images: int) -> dict[str, float]:
    """Seconds of training, CAMs and masks for this number of images, for the stages that a run has records of."""
    found = {name: seconds_per_image(run, name) for name in ("cams", "refine")}
    step = seconds_per_step(run, "train", config.train.batch_size)
    times = {} if step is None else {"train": step * config.train.total_steps(images)}
    return times | {name: rate * images for name, rate in found.items() if rate is not None}


def _line(stage: StagePlan) -> str:
    parts = [f"{stage.stage}: {stage.work}"]
    if stage.lacking:
        parts.append("disk unknown here" if stage.bytes is None else f"{_size(stage.bytes)}, as the files here")
    if stage.lacking or stage.steps:
        parts.append("time unknown here" if stage.seconds is None else f"{duration(stage.seconds)} by its records here")
    return "; ".join(parts)


def _size(count: int) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds as text, in hours and minutes at most."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
