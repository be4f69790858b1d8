"""What a run would do now, stage by stage: how much, how large, and how long by its own records."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet
from tag2mask.errors import first_five
from tag2mask.files import files_below
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.pace import seconds_per_photograph, seconds_per_step, trained_steps
from tag2mask.pipeline.paths import EDGE_LABELS, EDGE_NETWORK, LABEL_CONFIDENCE, TRAIN_NETWORK, WHOLE
from tag2mask.pipeline.reading import photographs
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.pipeline.truth import truth_plan
from tag2mask.pipeline.witnesses import EVIDENCE
from tag2mask.predictor import SEGMENT_NETWORK
from tag2mask.training.settings import LoopSettings

USUAL_BYTES = {
    "seeds": 1600,
    "cams/classifier": 1600,
    "cams/prototype": 2600,
    "cams/pot": 2900,
    "cams/fused": 2000,
    EDGE_LABELS: 3600,
    "refine/edges": 4700,
    "masks": 2100,
    "predictions": 2100,
    EVIDENCE: 2000,
}
"""Bytes of a file where the run has none to measure: the mean over 440 to 1200 photographs of VOC, 500 pixels long,
with CAMs at stride 16. A file of confidence is so different from photograph to photograph that none is given."""

_MEASURED = 200
"""Files whose mean size counts, at most."""


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do.

    Attributes:
        stage: its name.
        work: in words.
        lacking: photographs to do; 0 for a stage that does not work by photograph.
        steps: of training to do.
        bytes: that its files by photograph would take; None where that cannot be told.
        measured: whether that is the mean of files that are there, rather than a usual size.
        seconds: that it would take at the pace of its records; None where there are none.
    """

    stage: str
    work: str
    lacking: int = 0
    steps: int = 0
    bytes: int | None = 0
    measured: bool = False
    seconds: float | None = 0.0

    def line(self) -> str:
        """One line for people."""
        parts = [f"{self.stage}: {self.work}"]
        if self.lacking:
            source = "as the files here" if self.measured else "as is usual for photographs of 500 pixels"
            parts.append("disk unknown here" if self.bytes is None else f"{_size(self.bytes)}, {source}")
        if self.lacking or self.steps:
            parts.append("time unknown here" if self.seconds is None else f"{duration(self.seconds)} at its pace here")
        return "; ".join(parts)


@dataclass(frozen=True)
class Plan:
    """What a command over a run folder would do; nothing is written.

    Attributes:
        photographs: how many.
        classes: their class list.
        stages: in order.
        shard: `i/n` where the command does but a part of the photographs.
    """

    photographs: int
    classes: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    shard: str | None = None

    def lines(self) -> list[str]:
        """The plan for people: a line a stage, and the sum."""
        shown = [f"{self.photographs} photographs, {len(self.classes)} classes: {first_five(self.classes)}"]
        shown += [stage.line() for stage in self.stages]
        if self.shard:
            shown.append(f"these are all photographs; --shard {self.shard} does its part of them")
        return [*shown, self._sum()]

    def _sum(self) -> str:
        """Disk and time of all stages, and whose are not among them."""
        busy = [stage for stage in self.stages if stage.lacking or stage.steps]
        if not busy:
            return "in all: nothing is left to do but to measure and to report"
        known = [stage.seconds for stage in busy if stage.seconds is not None]
        unknown = [stage.stage for stage in busy if stage.seconds is None]
        parts = [f"{_size(sum(stage.bytes or 0 for stage in busy))} of files by photograph"]
        parts += [duration(sum(known))] if known else []
        parts += [f"time unknown here of {', '.join(unknown)}"] if unknown else []
        return f"in all: {'; '.join(parts)}; networks and figures come on top"

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)


def plan(config: Config, run: RunFolder, stages: Sequence[str], *, restart: str | None = None) -> Plan:
    """What each stage would do now; a restart counts only for the class list that it may change."""
    photos = photographs(config)
    run.require_classes(photos.classes, run.to_delete(restart, photos.classes))
    made = tuple(_PLANS[name](config, run, photos) for name in stages)
    return Plan(len(photos.photos), photos.classes, made, config.shard)


@dataclass(frozen=True)
class _Files:
    """The files of a stage that are missing: photographs that lack one, and what the files would take."""

    lacking: int
    bytes: int | None
    measured: bool

    @classmethod
    def of(cls, run: RunFolder, photos: Sequence[Photo], folders: Sequence[str], suffix: str) -> "_Files":
        """Look for FOLDER/ID.suffix of each photograph in each folder; what is there tells how large a file is."""
        without, size, measured = set(), 0.0, True
        for folder in folders:
            lacking = [photo.id for photo in photos if not (run / folder / f"{photo.id}{suffix}").is_file()]
            without.update(lacking)
            there = islice(files_below(run / folder, suffix), _MEASURED)
            found = [(run / folder / name).stat().st_size for name in there]
            each = sum(found) / len(found) if found else _usual_bytes(folder)
            if lacking and each is None:
                return cls(len(without), None, False)
            size, measured = size + len(lacking) * (each or 0), measured and bool(found or not lacking)
        return cls(len(without), round(size), measured)


def _usual_bytes(folder: str) -> int | None:
    return USUAL_BYTES["predictions"] if folder.startswith("predictions/") else USUAL_BYTES.get(folder)


def _photograph_stage(run: RunFolder, stage: str, files: _Files, work: str) -> StagePlan:
    """A stage that writes files by photograph and nothing else."""
    pace = seconds_per_photograph(run, stage)
    seconds = files.lacking * pace if pace is not None else None
    return StagePlan(stage, work, files.lacking, 0, files.bytes, files.measured, seconds if files.lacking else 0.0)


def _training(run: RunFolder, stage: str, settings: LoopSettings, photos: int) -> tuple[int, float | None]:
    """Steps that are left, and how long they take by the log."""
    steps = max(settings.total_steps(photos) - trained_steps(run, stage), 1)
    pace = seconds_per_step(run, stage, settings.batch_size)
    return steps, None if pace is None else steps * pace


def _plan_seeds(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    files = _Files.of(run, photos.photos, ["seeds"], ".npz")
    source = f"the files in {config.seeds.from_npy}" if config.seeds.from_npy else config.seeds.model
    return _photograph_stage(run, "seeds", files, f"{files.lacking} base CAMs to take from {source}")


def _plan_train(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    if (run / TRAIN_NETWORK).is_file():
        return StagePlan("train", "done already")
    steps, seconds = _training(run, "train", config.train, len(photos.photos))
    saved = " from the saved state on" if (run / "train/state.pt").is_file() else ""
    work = f"{steps} steps of {config.train.batch_size} photographs{saved}"
    return StagePlan("train", work, steps=steps, seconds=seconds)


def _plan_cams(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    kinds = config.cams.kinds
    files = _Files.of(run, photos.photos, [f"cams/{kind}" for kind in kinds], ".npz")
    work = f"{files.lacking} photographs to do, each {', '.join(kinds)} at {len(config.cams.scales)} scales"
    return _photograph_stage(run, "cams", files, work)


def _plan_edges(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    if (run / EDGE_NETWORK).is_file():
        return StagePlan("edges", "done already")
    files = _Files.of(run, photos.photos, [EDGE_LABELS], ".png")
    labels = _photograph_stage(run, "edges", files, f"{files.lacking} labels to write over all shards; no training")
    if config.shard is not None:
        return labels
    steps, seconds = _training(run, "edges", config.edges, len(photos.photos))
    whole = None if seconds is None or labels.seconds is None else seconds + labels.seconds
    work = f"{files.lacking} labels to write, then {steps} steps of {config.edges.batch_size} photographs"
    return replace(labels, work=work, steps=steps, seconds=whole)


def _plan_refine(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    beside = ["refine/edges"] if config.refine.walks else []
    beside += [LABEL_CONFIDENCE] if config.refine.keep_confidence else []
    masks = _Files.of(run, photos.photos, ["masks"], ".png")
    files = replace(_Files.of(run, photos.photos, ["masks", *beside], ".png"), lacking=masks.lacking)
    work = f"{masks.lacking} masks to write by {config.refine.method} of {config.refine.cams}"
    return _photograph_stage(run, "refine", files, work)


def _plan_segment(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    if (run / SEGMENT_NETWORK).is_file():
        return StagePlan("segment", "done already")
    steps, seconds = _training(run, "segment", config.segment, len(photos.photos))
    work = f"{steps} steps of {config.segment.batch_size} photographs on {config.segment.labels}"
    return StagePlan("segment", work, steps=steps, seconds=seconds)


def _plan_predictions(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    found = [
        _Files.of(run, photographs(config, split).photos, [f"predictions/{split or WHOLE}"], ".png")
        for split in config.evaluate.split_names(config.data.split)
    ]
    lacking, size = sum(files.lacking for files in found), sum(files.bytes or 0 for files in found)
    files = _Files(lacking, size, all(files.measured for files in found))
    return _photograph_stage(run, "predictions", files, f"{lacking} photographs to predict")


def _plan_confidence(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    files = _Files.of(run, photos.photos, [EVIDENCE], ".npz")
    return _photograph_stage(run, "confidence", files, f"{files.lacking} masks to judge, then a ranking of all")


def _plan_evaluate(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    splits = config.evaluate.split_names(config.data.split)
    counts = [f"{split or WHOLE} ({truth_plan(photographs(config, split))})" for split in splits]
    return StagePlan("evaluate", f"on {', '.join(counts)}")


def _plan_report(config: Config, run: RunFolder, photos: PhotoSet) -> StagePlan:
    return StagePlan("report", f"write {run / 'report.html'}")


_PLANS: dict[str, Callable[[Config, RunFolder, PhotoSet], StagePlan]] = {
    "seeds": _plan_seeds,
    "train": _plan_train,
    "cams": _plan_cams,
    "edges": _plan_edges,
    "refine": _plan_refine,
    "segment": _plan_segment,
    "predictions": _plan_predictions,
    "confidence": _plan_confidence,
    "evaluate": _plan_evaluate,
    "report": _plan_report,
}


def _size(count: int) -> str:
    """Bytes for people."""
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds for people: the two greatest units at most."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
