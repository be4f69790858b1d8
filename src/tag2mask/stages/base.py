"""The base classes of stages, which describe themselves to the rest of the program."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, cast

from tag2mask.core.distributed import is_main
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import files_below, read_json, write_json
from tag2mask.data.dataset import ImageSet
from tag2mask.data.manifest import ImageItem
from tag2mask.networks.checkpoint import SavedNetwork, save_network
from tag2mask.runs.config import Config, absolute, plain
from tag2mask.runs.dataset import reading_workers
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import RunFolder
from tag2mask.runs.throughput import seconds_per_image, seconds_per_step, trained_steps
from tag2mask.training.settings import LoopSettings
from tag2mask.training.trainer import Task, TrainingResult, check_requirements, train_network

Distribution = Literal["shard", "join", "shard, then join", "main"]
"""How processes share a stage: each does its images; all work on one task; the first, then the second; one does all."""

Settings = dict[str, Any]
"""Nested plain values."""

_MEASURED = 200
"""Most files whose sizes are averaged for a plan."""


@dataclass(frozen=True)
class Schedule:
    """The stages that a command is about to do.

    Attributes:
        stages: names, in order.
        restarted: the stages, these or others, whose outputs are about to be deleted.
    """

    stages: Collection[str]
    restarted: Collection[str]


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do now.

    Attributes:
        work: a description.
        lacking: images to do; 0 for a stage that does not work image by image.
        steps: training steps to do.
        bytes: size of the files to write, estimated from existing files; None without any.
        seconds: time by the recorded throughput; None without a record.
    """

    stage: str
    work: str
    lacking: int = 0
    steps: int = 0
    bytes: int | None = 0
    seconds: float | None = 0.0


class Stage(ABC):
    """A stage of a run: reads files of the run folder and writes others. It can be repeated, resumed and replaced.

    Attributes:
        name: in commands, settings and files; the stage's record is RUN/name/stage.json.
        outputs: what it writes, relative to the run folder; a restart deletes them.
        reads: the stages whose outputs it reads.
        optional_inputs: stages that it reads only if its settings have a section: {stage: section}.
        version: raise it by hand whenever the same settings give other files.
        always_rerun: it has no record: it makes its files again each time, or finds stale files by itself.
        distribution: how several processes share the work.
        sections: the sections of config.yaml, or single settings, that the stage updates.
        section: the section of its precision and batch size; empty: that of its name.
        reads_images: whether its files depend on how images are decoded.
        enabled_by: the setting that makes `run` do it; empty for a stage that always runs.
        restart_option: the option that makes it again; empty: ``--restart NAME``.
    """

    name: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[str, ...]] = ()
    optional_inputs: ClassVar[Mapping[str, str]] = {}
    version: ClassVar[int] = 1
    always_rerun: ClassVar[bool] = False
    distribution: ClassVar[Distribution]
    sections: ClassVar[tuple[str, ...]] = ()
    section: ClassVar[str] = ""
    reads_images: ClassVar[bool] = False
    enabled_by: ClassVar[str] = ""
    restart_option: ClassVar[str] = ""

    def is_wanted(self, config: Config) -> bool:
        """Whether `run` does the stage with these settings."""
        return True

    def fingerprint(self, config: Config, images: ImageSet) -> Settings:
        """The settings that the stage's files depend on; ``images`` are read for their class list alone."""
        settings, intensity = self.settings(absolute(config), images), config.data.intensity
        if intensity is None or not self.reads_images:
            return settings
        return settings | {"data": {**settings.get("data", {}), "intensity": [float(value) for value in intensity]}}

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The fingerprint without the decoding of images; paths in ``config`` are absolute."""
        return {}

    def precision(self, config: Config) -> str | None:
        """The precision of its network; None without a choice."""
        return getattr(getattr(config, self.section or self.name, None), "precision", None)

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:  # noqa: B027 - most have none
        """Find what would stop the stage, before anything is made or deleted.

        Raises:
            UsageError: settings are wrong, or an input is missing and will not be made.
            Tag2maskError: weights could not be fetched.
        """

    @abstractmethod
    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The work to do now; nothing is written."""

    @abstractmethod
    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Make what is missing.

        Raises:
            UsageError: an input is missing, or the folder holds files of other settings.
            Interrupted: the user stopped it; finished work is kept.
        """

    def images_plan(
        self,
        run: RunFolder,
        items: Sequence[ImageItem],
        folders: Sequence[str],
        suffix: str,
        work: str,
        is_to_do: Callable[[ImageItem], bool] | None = None,
    ) -> StagePlan:
        """The plan of a stage that writes FOLDER/ID.suffix for each image.

        Args:
            folders: relative to the run folder.
            suffix: with the dot.
            work: a description, in which ``{}`` is the number of images to do.
            is_to_do: whether an image with existing files is to do; None: never.
        """
        todo: set[str] = set()
        size: float | None = 0.0
        for folder in folders:
            lacking = [item.id for item in items if not (run / folder / f"{item.id}{suffix}").is_file()]
            todo.update(lacking)
            if lacking:
                names = islice(files_below(run / folder, suffix), _MEASURED)
                sizes = [(run / folder / name).stat().st_size for name in names]
                size = size + len(lacking) * sum(sizes) / len(sizes) if sizes and size is not None else None
        if is_to_do is not None:
            todo.update(item.id for item in items if item.id not in todo and is_to_do(item))
        each = seconds_per_image(run, self.name)
        seconds = (None if each is None else len(todo) * each) if todo else 0.0
        shown = work.format(len(todo))
        return StagePlan(self.name, shown, len(todo), 0, None if size is None else round(size), seconds)


class TrainingStage(Stage):
    """A stage that trains a network, saved as RUN/name/network.safetensors."""

    distribution: ClassVar[Distribution] = "join"
    reads_images = True

    @property
    def network_file(self) -> str:
        """The path of the network, relative to the run folder."""
        return f"{self.name}/network.safetensors"

    def loop(self, config: Config) -> LoopSettings:
        """The settings of the training loop."""
        return cast("LoopSettings", getattr(config, self.name))

    def data_settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of the training set and of random draws."""
        values = {"classes": list(images.classes), "seed": config.seed, "limit": config.limit}
        return {**values, "data": {"split": config.data.split}}

    def is_new(self, run: RunFolder, schedule: Schedule) -> bool:
        """Whether a network is about to be trained, from the start or from a saved state."""
        return self.name in schedule.restarted or not (run / self.network_file).is_file()

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Check the requirements of training on this machine."""
        if self.is_new(run, schedule):
            check_requirements(self.name, self.loop(config), config.device, config.train)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The remaining steps, and their time by the log."""
        if (run / self.network_file).is_file():
            return StagePlan(self.name, "done already")
        loop = self.loop(config)
        steps = max(loop.total_steps(len(images.items)) - trained_steps(run, self.name), 1)
        each = seconds_per_step(run, self.name, loop.batch_size)
        saved = " from the saved state on" if (run / f"{self.name}/state.pt").is_file() else ""
        work = f"{steps} steps of {loop.batch_size} images{saved}"
        return StagePlan(self.name, work, steps=steps, seconds=None if each is None else steps * each)

    def check_same_data(self, run: RunFolder, images: ImageSet) -> str:
        """Check that a training continues on the data that it started with; record the data of a new training.

        The data are IDs, tags and, if all files can be seen, the sizes of the files. All processes call this before the
        first step.

        Returns:
            a note if the existing network was trained on other data; else empty.

        Raises:
            UsageError: a saved state is of other data.
            Tag2maskError: the record is damaged.
        """
        record, now = run / f"{self.name}/data.json", _digest_of(images)
        finished, begun = (run / self.network_file).is_file(), (run / f"{self.name}/state.pt").is_file()
        remedy = f"--restart {self.name} starts again"
        before = read_json(record, remedy) if (finished or begun) and record.is_file() else now
        if before.keys() != now.keys():
            if finished:
                return ""
            raise Tag2maskError(f"{record} is damaged; {remedy}")
        if all(before[key] == now[key] or None in (before[key], now[key]) for key in now):
            if not finished and is_main() and before is now:
                write_json(record, now)
            return ""
        count, changed = before["images"], f"now there are {now['images']}"
        if count == now["images"]:
            changed = "now some of them, their tags or their files differ"
        if finished:
            return (
                f"the existing network was trained on {count} images, and {changed}; --restart {self.name} trains again"
            )
        raise UsageError(
            f"the training in {run / self.name} started on {count} images, and {changed}; "
            f"put the data back, or start again with --restart {self.name}"
        )

    def fit(self, task: Task, config: Config, run: RunFolder, console: Console, result: StageResult) -> TrainingResult:
        """Train, or continue training, and save the network; add unreadable images and notes to ``result``.

        Returns:
            the result of the training.

        Raises:
            Interrupted: the user stopped it; the state is saved.
            Tag2maskError: loss or weights are not finite, or no image can be read.
        """
        loop = self.loop(config)
        with progress_bar(console, self.name, loop.total_steps(len(task.samples))) as advance:

            def on_step(done: int, total: int, values: Mapping[str, float]) -> None:
                measured = f", mIoU {100 * values['validation_miou']:.1f}" if "validation_miou" in values else ""
                speed = f"loss {values['loss']:.4f}, {values['images_per_second']:.1f} images/s" if values else ""
                advance(done, f"{speed}{measured}")

            trained = train_network(
                task,
                loop,
                folder=run / self.name,
                seed=config.seed,
                device=config.device,
                workers=reading_workers(config),
                records=config.train,
                on_step=on_step,
            )
        if is_main():
            save_network(run / self.network_file, cast("SavedNetwork", task.network))
        result.failed.update(trained.unreadable)
        if trained.resumed_from:
            result.notes.append(f"resumed at step {trained.resumed_from} of {trained.steps}{trained.note}")
        return trained


def _digest_of(images: ImageSet) -> dict[str, Any]:
    """The number of images, a digest of IDs and tags, and one of file sizes, None if a file cannot be seen."""
    tags, files, seen = hashlib.sha256(), hashlib.sha256(), True
    for item in images.items:
        tags.update(repr((item.id, item.tags)).encode())
        try:
            files.update(repr((item.id, item.path.stat().st_size)).encode())
        except OSError:
            seen = False
    count = len(images.items)
    return {"images": count, "tags": tags.hexdigest()[:16], "files": files.hexdigest()[:16] if seen else None}


def training_settings(settings: LoopSettings, *unread: str) -> Settings:
    """Settings of training as plain values, without ``unread`` ones and others that have no effect."""
    values: Settings = plain(settings, affecting=True)
    augment = values["augment"]
    without_effect = {"hsv_jitter": not settings.augment.hsv_jitter, "padding": settings.augment.padding == "random"}
    without_effect["scales"] = augment["resize"] not in ("scale_range", "scale_choice")
    without_effect["long_side"] = augment["resize"] in ("scale_range", "scale_choice")
    values["augment"] = {key: value for key, value in augment.items() if not without_effect.get(key)}
    if settings.keep_best:
        values["keep_best"] = f"of every {settings.validate_every} steps"
    neutral = {"gradient_accumulation_steps": 1, "lr_update_every": 1, "keep_best": False}
    kept = {key: value for key, value in values.items() if key not in neutral or value != neutral[key]}
    return {key: value for key, value in kept.items() if key not in unread}
