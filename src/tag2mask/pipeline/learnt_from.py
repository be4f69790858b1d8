"""Which masks a segmentation network learns from, and which are others by now."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree

from tag2mask.data.decided import FinalMasks
from tag2mask.data.photos import PhotoSet
from tag2mask.distributed import gathered, is_main
from tag2mask.errors import Tag2maskError
from tag2mask.files import is_newer, read_json, write_json


@dataclass(frozen=True)
class LearntFrom:
    """The masks of a training.

    Attributes:
        photographs: IDs, in order.
        by_hand: a digest of each mask that somebody accepted or drew, by ID.
    """

    photographs: list[str]
    by_hand: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, labelled: PhotoSet, masks: FinalMasks | None) -> "LearntFrom":
        """What a training that begins now would learn from.

        Args:
            labelled: its photographs.
            masks: their masks; None for ground truth.
        """
        ids = [photo.id for photo in labelled.photos]
        by_hand = [] if masks is None else [photo_id for photo_id in ids if masks.is_by_hand(photo_id)]
        return cls(ids, {photo_id: _digest(masks, photo_id) for photo_id in by_hand if masks is not None})

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
            photographs, by_hand = noted["photographs"], noted.get("by_hand", {})
            sound = isinstance(photographs, list) and isinstance(by_hand, dict)
            sound = sound and all(isinstance(text, str) for text in (*photographs, *by_hand.values()))
        except (Tag2maskError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise Tag2maskError(
                f"{path} is damaged: it does not say what the training learns from; --restart segment begins anew"
            )
        return cls(photographs, by_hand)

    def write(self, path: Path) -> None:
        """Note it."""
        by_hand = {"by_hand": self.by_hand} if self.by_hand else {}
        write_json(path, {"photographs": self.photographs, **by_hand})

    def others_by_hand(self, before: "LearntFrom") -> set[str]:
        """The photographs in both whose mask by hand is another one than before, is new, or was taken back."""
        both = {*self.photographs} & {*before.photographs}
        return {photo_id for photo_id in both if self.by_hand.get(photo_id) != before.by_hand.get(photo_id)}

    def newer(self, before: "LearntFrom", masks: FinalMasks | None, network: Path) -> set[str]:
        """The photographs whose mask a network did not learn from, or is another one by now.

        Args:
            before: what the network learnt from.
            masks: as of `of`.
            network: its file; masks of the method that were written after it are others.
        """
        new = {*self.photographs} - {*before.photographs} | self.others_by_hand(before)
        if masks is None:
            return new
        own = (photo_id for photo_id in self.photographs if photo_id not in self.by_hand)
        return new | {photo_id for photo_id in own if is_newer(masks.own / f"{photo_id}.png", network)}


def copied_by_hand(folder: Path, labelled: PhotoSet, masks: FinalMasks | None) -> tuple[FinalMasks | None, LearntFrom]:
    """The masks of a training that begins now, and what it learns from; all processes call this together.

    Those by hand are copies: what a review saves or takes back while the network trains is neither mixed in nor missed.

    Args:
        folder: where copies go; what is there is deleted first.
        labelled: the photographs.
        masks: as of `LearntFrom.of`.
    """
    if is_main():
        rmtree(folder, ignore_errors=True)
    if masks is None or not masks.decided.verdicts:
        return masks, LearntFrom.of(labelled, masks)
    by_hand = [photo.id for photo in labelled.photos if masks.is_by_hand(photo.id)]
    copies = FinalMasks(masks.own, replace(masks.decided, folder=folder))
    if is_main():
        for photo_id in by_hand:
            target = folder / f"{photo_id}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # taken back in this moment: training names it as one without a mask
                target.write_bytes((masks / f"{photo_id}.png").read_bytes())
    return copies, gathered(LearntFrom.of(labelled, copies) if is_main() else None)[0] or LearntFrom([])


def _digest(masks: FinalMasks, photo_id: str) -> str:
    """Of a file's content: one that is copied, or written again as it was, is the same. Empty if it is gone by now."""
    try:
        return hashlib.sha256((masks / f"{photo_id}.png").read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
