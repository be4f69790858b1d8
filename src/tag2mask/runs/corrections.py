"""The corrections of a run in RUN/corrections, and the records of which tags and masks a network was trained on."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tag2mask.core.distributed import gathered, is_main
from tag2mask.core.errors import Tag2maskError
from tag2mask.core.files import discard, is_newer, read_json, write_bytes, write_json
from tag2mask.data.corrections import Corrections, FinalMasks, read_corrections
from tag2mask.data.dataset import ImageSet
from tag2mask.data.problems import refuse_errors
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder

CORRECTIONS = "corrections"
"""The folder of corrections in a run; no stage changes it."""

TAGS = "train/training_record.json"
"""The tags that were corrected when training began."""


def run_corrections(run: RunFolder, classes: Sequence[str], *, together: bool = False) -> Corrections:
    """The corrections of a run at this moment.

    Args:
        run: the run folder.
        classes: names of the classes 1..C.
        together: all processes call this and get the same corrections, which may change meanwhile.

    Raises:
        UsageError: the folder cannot be used.
    """
    folder = run / CORRECTIONS
    if together:
        corrections, problems = gathered(read_corrections(folder, classes) if is_main() else (Corrections(), []))[0]
    else:
        corrections, problems = read_corrections(folder, classes)
    refuse_errors(problems, folder)
    return corrections


def exclude_damaged(images: ImageSet, result: StageResult) -> ImageSet:
    """The images without those whose decision is damaged, which are added to ``result.failed``.

    Whatever distributes images over batches or shards takes all of them and skips the damaged ones afterwards, so that
    the others do not move.
    """
    damaged = images.corrections.damaged
    if not damaged:
        return images
    result.failed.update({item.id: damaged[item.id] for item in images.items if item.id in damaged})
    return images.of(images.items.filter(lambda item: item.id not in damaged))


def final_masks(run: RunFolder, images: ImageSet) -> FinalMasks:
    """The final masks of a run."""
    return FinalMasks(run / "masks", images.corrections)


def record_tags(run: RunFolder, images: ImageSet) -> None:
    """Record the corrected tags when a training begins; a training that is resumed keeps its record."""
    if (run / "train/state.pt").is_file():
        return
    if tags := _corrected_tags(images):
        write_json(run / TAGS, {"tags": {image_id: list(own) for image_id, own in tags.items()}})
    else:
        (run / TAGS).unlink(missing_ok=True)


def newer_tags(run: RunFolder, images: ImageSet) -> int:
    """The number of images whose tags were corrected, or set back, since the network was trained.

    Raises:
        Tag2maskError: the record of the training is damaged.
    """
    known, now = _recorded_tags(run / TAGS), _corrected_tags(images)
    return sum(now.get(image_id) != known.get(image_id) for image_id in {*known, *now})


def _recorded_tags(path: Path) -> dict[str, tuple[int, ...]]:
    if not path.is_file():
        return {}
    try:
        return {image_id: tuple(int(tag) for tag in tags) for image_id, tags in read_json(path)["tags"].items()}
    except (Tag2maskError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Tag2maskError(
            f"{path} is damaged: it does not say which tags were corrected; --restart train trains again"
        ) from error


def _corrected_tags(images: ImageSet) -> dict[str, tuple[int, ...]]:
    tags = images.corrections.tags
    return {item.id: item.tags for item in images.items if item.id in tags} if tags else {}


@dataclass(frozen=True)
class TrainingRecord:
    """The masks that a network is trained on.

    Attributes:
        images: IDs, in order.
        by_hand: a digest of each mask that was accepted or corrected, by ID.
    """

    images: list[str] = field(default_factory=list)
    by_hand: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, labelled: ImageSet, masks: FinalMasks | None) -> "TrainingRecord":
        """The record of a training that begins now.

        Args:
            labelled: its images.
            masks: their masks; None for ground truth.
        """
        ids = [item.id for item in labelled.items]
        if masks is None:
            return cls(ids)
        return cls(ids, {image_id: _digest(masks, image_id) for image_id in ids if masks.is_by_hand(image_id)})

    @classmethod
    def read(cls, path: Path) -> "TrainingRecord | None":
        """The record in a file; None without one.

        Raises:
            Tag2maskError: it is damaged.
        """
        if not path.is_file():
            return None
        try:
            values = read_json(path)
            images, by_hand = values["images"], values.get("by_hand", {})
            valid = isinstance(images, list) and isinstance(by_hand, dict)
            valid = valid and all(isinstance(text, str) for text in (*images, *by_hand.values()))
        except (Tag2maskError, KeyError, TypeError, AttributeError):
            valid = False
        if not valid:
            raise Tag2maskError(
                f"{path} is damaged: it does not list the masks of the training; --restart segment trains again"
            )
        return cls(images, by_hand)

    def write(self, path: Path) -> None:
        """Write the record."""
        by_hand = {"by_hand": self.by_hand} if self.by_hand else {}
        write_json(path, {"images": self.images, **by_hand})

    def changed_by_hand(self, before: "TrainingRecord") -> set[str]:
        """The images in both records whose mask by hand was changed, added or removed since ``before``."""
        both = {*self.images} & {*before.images}
        return {image_id for image_id in both if self.by_hand.get(image_id) != before.by_hand.get(image_id)}

    def newer_than(self, before: "TrainingRecord", masks: FinalMasks | None, network: Path) -> set[str]:
        """The images whose mask is not the one that a network was trained on.

        Args:
            before: the record of the network.
            masks: as in `of`.
            network: its file; pseudo masks that were written after it are new ones.
        """
        new = {*self.images} - {*before.images} | self.changed_by_hand(before)
        if masks is None:
            return new
        pseudo = (image_id for image_id in self.images if image_id not in self.by_hand)
        return new | {image_id for image_id in pseudo if is_newer(masks.pseudo_masks / f"{image_id}.png", network)}


def copy_masks_by_hand(
    folder: Path, labelled: ImageSet, masks: FinalMasks | None
) -> tuple[FinalMasks | None, TrainingRecord]:
    """The masks of a training that begins now, and its record; all processes call this together.

    The training reads copies of the masks by hand, so a review may change those meanwhile.

    Args:
        folder: of the copies; its content is deleted first.
        labelled: the images.
        masks: as in `TrainingRecord.of`.
    """
    if is_main():
        discard(folder)
    if masks is None or not masks.corrections.verdicts:
        return masks, TrainingRecord.of(labelled, masks)
    copies = FinalMasks(masks.pseudo_masks, replace(masks.corrections, folder=folder))
    record = TrainingRecord()
    if is_main():
        for image_id in (item.id for item in labelled.items if masks.is_by_hand(item.id)):
            with suppress(FileNotFoundError):  # undone at this moment: training reports it as an image without a mask
                write_bytes(folder / f"{image_id}.png", (masks / f"{image_id}.png").read_bytes())
        record = TrainingRecord.of(labelled, copies)
    return copies, gathered(record)[0]


def _digest(masks: FinalMasks, image_id: str) -> str:
    """A digest of a mask's file; empty if it is missing."""
    try:
        return hashlib.sha256((masks / f"{image_id}.png").read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
