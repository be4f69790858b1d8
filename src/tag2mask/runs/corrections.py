"""What people decided, in a run: where it is kept, and how the stages take it in."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree

import yaml

from tag2mask.core.distributed import gathered, is_main
from tag2mask.core.errors import Tag2maskError
from tag2mask.core.files import is_newer, read_json, write_json
from tag2mask.data.corrections import Decided, FinalMasks, read_decided
from tag2mask.data.dataset import ImageSet
from tag2mask.data.problems import Problem
from tag2mask.data.settings import DataSettings
from tag2mask.runs.config import Config, absolute
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder

OWN = "corrections"
"""The folder of a run for what is decided about its masks; where it is there, it counts, and no stage changes it."""

TAGS = "train/learnt_from.json"
"""The tags that people had decided when training began."""


def corrections_folder(config: Config, run: RunFolder) -> Path:
    """Where a review of a run keeps its decisions: `data.corrections`, else the run's own folder; need not be there."""
    return config.data.corrections or run / OWN


def with_remembered(config: Config, given: Path | None) -> Config:
    """The settings with the folder of decisions that the run in `out` remembers.

    Args:
        config: of a command that names no such folder itself.
        given: the folder where nothing is there yet that could remember one.
    """
    known = config.out is not None and (config.out / "config.yaml").is_file()
    folder = remembered_corrections(config.out) if known and config.out is not None else given
    return replace(config, data=replace(config.data, corrections=folder))


def remember_corrections(config: Config, run: RunFolder) -> None:
    """Have later commands read the folder that this one was given, or none; the caller holds the run's lock.

    The run's own is not remembered: it counts by itself, wherever the run is moved or copied to.
    """
    folder = absolute(config).data.corrections
    if folder is not None and is_own(folder, run.path):
        folder = None
    if remembered_corrections(run.path) != folder:
        run.record_setting("data", "corrections", None if folder is None else str(folder))


def remembered_corrections(out: Path) -> Path | None:
    """The folder of decisions that a run's config.yaml names; None where there is no such file, or it names none."""
    return corrections_in(out / "config.yaml")


def corrections_in(file: Path) -> Path | None:
    """The folder of decisions that a file of settings names; None where it names none, or cannot be read."""
    try:
        data = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("data")
    except (OSError, ValueError, yaml.YAMLError, AttributeError, RecursionError):  # who reads the settings says so
        return None
    folder = data.get("corrections") if isinstance(data, dict) else None
    return Path(folder) if isinstance(folder, str) else None


def is_own(folder: Path, run: Path) -> bool:
    """Whether a folder is the one inside a run."""
    return folder.absolute() == (run / OWN).absolute()


def data_of(config: Config, run: Path | None) -> DataSettings:
    """The settings of the data with the folder of decisions that counts: `data.corrections`, else the run's own."""
    folder = config.data.corrections
    if run is None or not (folder is None or is_own(folder, run)):
        return config.data
    own = run / OWN
    return replace(config.data, corrections=own if own.exists() else None)


def read_together(folder: Path | None, classes: Sequence[str]) -> tuple[Decided, list[Problem]]:
    """As `read_decided`, but once for all processes, which must all call this: a review may go on meanwhile."""
    from tag2mask.core.distributed import gathered, is_main  # takes a second, and every command reads this file

    return gathered(read_decided(folder, classes) if is_main() else (Decided(), []))[0]


def without_damaged(images: ImageSet, result: StageResult) -> ImageSet:
    """The images without those about which a decision is damaged; they have failed.

    What deals images to batches or shards takes all of them, so that the others stay where they are, and leaves
    the damaged ones out of that.
    """
    damaged = images.decided.damaged
    if not damaged:
        return images
    result.failed.update({item.id: damaged[item.id] for item in images.items if item.id in damaged})
    return images.of(images.items.filter(lambda item: item.id not in damaged))


def final_masks(run: RunFolder, images: ImageSet) -> FinalMasks:
    """The masks of a run that count, people's among them."""
    return FinalMasks(run / "masks", images.decided)


def record_tags(run: RunFolder, images: ImageSet) -> None:
    """Note, where a training begins, which tags people had decided by then."""
    if (run / "train/state.pt").is_file():
        return
    decided = _decided_tags(images)
    if decided:
        write_json(run / TAGS, {"tags": {image_id: list(tags) for image_id, tags in decided.items()}})
    else:
        (run / TAGS).unlink(missing_ok=True)


def newer_tags(run: RunFolder, images: ImageSet) -> int:
    """Of how many images somebody decided the tags, or took that back, since the network was trained.

    Raises:
        Tag2maskError: the record of that time is damaged.
    """
    known, now = _known_tags(run / TAGS), _decided_tags(images)
    return sum(now.get(image_id) != known.get(image_id) for image_id in {*known, *now})


def _known_tags(path: Path) -> dict[str, tuple[int, ...]]:
    """The tags that were noted."""
    if not path.is_file():
        return {}
    try:
        return {image_id: tuple(int(tag) for tag in tags) for image_id, tags in read_json(path)["tags"].items()}
    except (Tag2maskError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Tag2maskError(
            f"{path} is damaged: it does not say which tags people had decided; --restart train learns anew"
        ) from error


def _decided_tags(images: ImageSet) -> dict[str, tuple[int, ...]]:
    """The tags that people decided, of these images."""
    tags = images.decided.tags
    return {item.id: item.tags for item in images.items if item.id in tags} if tags else {}


@dataclass(frozen=True)
class LearntFrom:
    """The masks of a training.

    Attributes:
        images: IDs, in order.
        by_hand: a digest of each mask that somebody accepted or drew, by ID.
    """

    images: list[str]
    by_hand: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, labelled: ImageSet, masks: FinalMasks | None) -> "LearntFrom":
        """What a training that begins now would learn from.

        Args:
            labelled: its images.
            masks: their masks; None for ground truth.
        """
        ids = [item.id for item in labelled.items]
        by_hand = [] if masks is None else [image_id for image_id in ids if masks.is_by_hand(image_id)]
        return cls(ids, {image_id: _digest(masks, image_id) for image_id in by_hand if masks is not None})

    @classmethod
    def read(cls, path: Path) -> "LearntFrom | None":
        """What was noted when training began; None if nothing was.

        Raises:
            Tag2maskError: it is damaged.
        """
        if not path.is_file():
            return None
        try:
            noted = read_json(path)
            images, by_hand = noted["images"], noted.get("by_hand", {})
            sound = isinstance(images, list) and isinstance(by_hand, dict)
            sound = sound and all(isinstance(text, str) for text in (*images, *by_hand.values()))
        except (Tag2maskError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise Tag2maskError(
                f"{path} is damaged: it does not say what the training learns from; --restart segment begins anew"
            )
        return cls(images, by_hand)

    def write(self, path: Path) -> None:
        """Note it."""
        by_hand = {"by_hand": self.by_hand} if self.by_hand else {}
        write_json(path, {"images": self.images, **by_hand})

    def others_by_hand(self, before: "LearntFrom") -> set[str]:
        """The images in both whose mask by hand is another one than before, is new, or was taken back."""
        both = {*self.images} & {*before.images}
        return {image_id for image_id in both if self.by_hand.get(image_id) != before.by_hand.get(image_id)}

    def newer(self, before: "LearntFrom", masks: FinalMasks | None, network: Path) -> set[str]:
        """The images whose mask a network did not learn from, or is another one by now.

        Args:
            before: what the network learnt from.
            masks: as of `of`.
            network: its file; masks of the method that were written after it are others.
        """
        new = {*self.images} - {*before.images} | self.others_by_hand(before)
        if masks is None:
            return new
        own = (image_id for image_id in self.images if image_id not in self.by_hand)
        return new | {image_id for image_id in own if is_newer(masks.own / f"{image_id}.png", network)}


def copied_by_hand(folder: Path, labelled: ImageSet, masks: FinalMasks | None) -> tuple[FinalMasks | None, LearntFrom]:
    """The masks of a training that begins now, and what it learns from; all processes call this together.

    Those by hand are copies: what a review saves or takes back while the network trains is neither mixed in nor missed.

    Args:
        folder: where copies go; what is there is deleted first.
        labelled: the images.
        masks: as of `LearntFrom.of`.
    """
    if is_main():
        rmtree(folder, ignore_errors=True)
    if masks is None or not masks.decided.verdicts:
        return masks, LearntFrom.of(labelled, masks)
    by_hand = [item.id for item in labelled.items if masks.is_by_hand(item.id)]
    copies = FinalMasks(masks.own, replace(masks.decided, folder=folder))
    if is_main():
        for image_id in by_hand:
            target = folder / f"{image_id}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # taken back in this moment: training names it as one without a mask
                target.write_bytes((masks / f"{image_id}.png").read_bytes())
    return copies, gathered(LearntFrom.of(labelled, copies) if is_main() else None)[0] or LearntFrom([])


def _digest(masks: FinalMasks, image_id: str) -> str:
    """Of a file's content: one that is copied, or written again as it was, is the same. Empty if it is gone by now."""
    try:
        return hashlib.sha256((masks / f"{image_id}.png").read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
