"""What a stage is. Everything that the rest of the program knows of a stage, the stage says itself."""

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
from tag2mask.training.trainer import Task, check_requirements, train_network

Distribution = Literal["shard", "join", "shard, then join", "main"]
"""How processes share a stage: each does its images; all do one work together; first this, then that; one does all."""

Settings = dict[str, Any]
"""Nested plain values."""

_MEASURED = 200
"""Files whose mean size counts in a plan, at most."""


@dataclass(frozen=True)
class Schedule:
    """What a command is about to do.

    Attributes:
        stages: by name, in order.
        again: of these and others, those whose outputs are about to be deleted.
    """

    stages: Collection[str]
    restarted: Collection[str]


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do now.

    Attributes:
        stage: its name.
        work: in words.
        lacking: images to do; 0 for a stage that does not work by image.
        steps: of training to do.
        bytes: that its files by image would take, by the mean of those that are there; None where there are none.
        seconds: that it would take at the pace of its records; None where there are none.
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
        sections: the sections of config.yaml that the stage alone updates.
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
        """Whether `run` does it with these settings."""
        return True

    def fingerprint(self, config: Config, images: ImageSet) -> Settings:
        """The settings that the stage's files depend on, besides the images.

        Args:
            config: every setting.
            photos: the images, for their class list.
        """
        settings, intensity = self.settings(absolute(config), images), config.data.intensity
        if intensity is None or not self.reads_images:
            return settings
        return settings | {"data": {**settings.get("data", {}), "intensity": [float(value) for value in intensity]}}

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The same without how images are decoded; paths in ``config`` are absolute."""
        return {}

    def precision(self, config: Config) -> str | None:
        """The precision that its network works in, where there is a choice."""
        return getattr(getattr(config, self.section or self.name, None), "precision", None)

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:  # noqa: B027 - most have none
        """Find what would stop the stage, before anything is made or deleted.

        Raises:
            UsageError: settings are wrong, or something that it reads is not there and will not be.
            Tag2maskError: weights could not be fetched.
        """

    @abstractmethod
    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """What it would do now; nothing is written."""

    @abstractmethod
    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Do what is missing.

        Raises:
            UsageError: something that it reads is missing, or the folder holds files of other settings.
            Interrupted: the user stopped it; what was done is kept.
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
        """The plan of a stage that writes FOLDER/ID.suffix.

        Args:
            run: the run folder.
            photos: the images.
            folders: what it writes to, relative to the run folder.
            suffix: with the dot.
            work: in words; ``{}`` is how many images there are to do.
            is_to_do: whether an image is to do though its files are there; None: none is.
        """
        without: set[str] = set()
        size: float | None = 0.0
        for folder in folders:
            lacking = [item.id for item in items if not (run / folder / f"{item.id}{suffix}").is_file()]
            without.update(lacking)
            there = [
                (run / folder / name).stat().st_size for name in islice(files_below(run / folder, suffix), _MEASURED)
            ]
            if lacking:
                size = size + len(lacking) * sum(there) / len(there) if there and size is not None else None
        if is_to_do is not None:
            without.update(item.id for item in items if item.id not in without and is_to_do(item))
        pace = seconds_per_image(run, self.name)
        seconds = (None if pace is None else len(without) * pace) if without else 0.0
        shown = work.format(len(without))
        return StagePlan(self.name, shown, len(without), 0, None if size is None else round(size), seconds)


class TrainingStage(Stage):
    """A stage that trains a network, saved as RUN/name/network.safetensors."""

    distribution: ClassVar[Distribution] = "join"
    reads_images = True

    @property
    def network_file(self) -> str:
        """Where the network is, relative to the run folder."""
        return f"{self.name}/network.safetensors"

    def loop(self, config: Config) -> LoopSettings:
        """The settings of its training loop."""
        return cast("LoopSettings", getattr(config, self.name))

    def is_new(self, run: RunFolder, schedule: Schedule) -> bool:
        """Whether a network is about to be trained from its beginning or from a saved state."""
        return self.name in schedule.restarted or not (run / self.network_file).is_file()

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Refuse what this machine cannot train."""
        if self.is_new(run, schedule):
            check_requirements(self.name, self.loop(config), config.device, config.train)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """Steps that are left, and how long they take by the log."""
        if (run / self.network_file).is_file():
            return StagePlan(self.name, "done already")
        loop = self.loop(config)
        steps = max(loop.total_steps(len(images.items)) - trained_steps(run, self.name), 1)
        pace = seconds_per_step(run, self.name, loop.batch_size)
        saved = " from the saved state on" if (run / f"{self.name}/state.pt").is_file() else ""
        work = f"{steps} steps of {loop.batch_size} images{saved}"
        return StagePlan(self.name, work, steps=steps, seconds=None if pace is None else steps * pace)

    def check_same_data(self, run: RunFolder, images: ImageSet) -> str:
        """See that a training goes on with the data that it was begun with, and note the data where it begins.

        Images, their tags and the sizes of their files, if all can be seen, count. All processes call this before
        the first step.

        Args:
            run: the run folder.
            photos: what is learned from.

        Returns:
            a note where a network is there that was trained on other data; empty otherwise.

        Raises:
            UsageError: a saved state is of other data.
            Tag2maskError: the record is damaged.
        """
        record, now = run / f"{self.name}/data.json", _digest_of(images)
        finished, begun = (run / self.network_file).is_file(), (run / f"{self.name}/state.pt").is_file()
        before = read_json(record) if (finished or begun) and record.is_file() else now
        if not isinstance(before, dict) or before.keys() != now.keys():
            if finished:
                return ""
            raise Tag2maskError(f"{record} is damaged; --restart {self.name} begins anew")
        if all(before[key] == now[key] or None in (before[key], now[key]) for key in now):
            if not finished and is_main() and before is now:
                write_json(record, now)
            return ""
        count, changed = before["images"], f"now there are {now['images']}"
        if count == now["images"]:
            changed = "now some of them, their tags or their files are others"
        if finished:
            return (
                f"the network that is there was trained on {count} images, and {changed}; "
                f"--restart {self.name} trains anew"
            )
        raise UsageError(
            f"the training in {run / self.name} was begun on {count} images, and {changed}; "
            f"put the data back, or begin anew with --restart {self.name}"
        )

    def fit(self, task: Task, config: Config, run: RunFolder, console: Console, result: StageResult) -> int:
        """Train, or continue training, and save the network.

        Args:
            task: what is trained.
            config: seed, device and workers.
            run: where state, log and network go.
            console: for progress.
            result: unreadable images and notes are added to it.

        Returns:
            the steps done in all.

        Raises:
            Interrupted: the user stopped it; the state is saved.
            Tag2maskError: loss or weights are not finite, or no image can be read.
        """
        loop = self.loop(config)
        with progress_bar(console, self.name, loop.total_steps(len(task.samples))) as advance:

            def on_step(done: int, total: int, values: Mapping[str, float]) -> None:
                measured = f", mIoU {100 * values['validation_miou']:.1f}" if "validation_miou" in values else ""
                advance(done, f"loss {values['loss']:.4f}, {values['images_per_second']:.1f} images/s{measured}")

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
            result.notes.append(f"went on from step {trained.resumed_from} of {trained.steps}")
        return trained.steps


def _digest_of(images: ImageSet) -> dict[str, Any]:
    """How many images there are, a digest of IDs and tags, and one of the sizes of their files.

    The last is None where a file cannot be seen.
    """
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
    """Settings of training as plain values, without those without effect.

    Args:
        settings: of the loop.
        unread: names that these settings do not read.
    """
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
