"""Decisions of people about masks and tags, read at one moment; and the final masks that follow from them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from tag2mask.data.classes import did_you_mean
from tag2mask.data.corrections import Corrections, Decision, Verdict
from tag2mask.data.names import on_disk
from tag2mask.data.problems import Problem, error
from tag2mask.errors import Tag2maskError

UNRECORDED = (
    "nothing there says which classes the ids in these masks are, so masks of another class list would not be noticed; "
    '`tag2mask import masks` makes a folder that does, or write {"classes": [names in the order of the ids]} into its '
    "corrections.json"
)
"""The warning about a folder of masks without a class list."""


@dataclass(frozen=True)
class Decided:
    """The decisions in a folder; those that are made later are not among them.

    Attributes:
        folder: of the decisions; None where there is none.
        verdicts: of masks, by the ID of the image.
        tags: class ids in ascending order that replace the tags of the data set, by ID.
        damaged: why a decision cannot be used, by ID.
        unrecorded: the folder has masks, and no class list.
    """

    folder: Path | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    tags: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    unrecorded: bool = False

    def mask(self, photo_id: str) -> Path | None:
        """The mask that somebody accepted or drew; None if there is none.

        Raises:
            Tag2maskError: what was decided is damaged.
        """
        if photo_id in self.damaged:
            raise Tag2maskError(self.damaged[photo_id])
        if self.folder is None or not self.has_mask(photo_id):
            return None
        return Path(on_disk(f"{self.folder}/{photo_id}.png"))

    def has_mask(self, photo_id: str) -> bool:
        """Whether somebody accepted or drew a mask."""
        return self.verdicts.get(photo_id) in ("accepted", "corrected")

    def is_rejected(self, photo_id: str) -> bool:
        """Whether the mask of an image is not to be used."""
        return self.verdicts.get(photo_id) == "rejected"

    def count(self, photo_ids: Iterable[str], *verdicts: Verdict) -> int:
        """How many of some images have one of these verdicts."""
        return sum(self.verdicts.get(photo_id) in verdicts for photo_id in photo_ids) if self.verdicts else 0

    def ids(self) -> list[str]:
        """The images that anything was decided about, sorted."""
        return sorted({*self.verdicts, *self.tags, *self.damaged})

    def sentence(self) -> str:
        """How many decisions there are, of each kind; empty where there are none."""
        verdicts = Counter[str](self.verdicts.values())
        counts = {name: verdicts[name] for name in get_args(Verdict)}
        counts |= {"with other tags": len(self.tags), "damaged": len(self.damaged)}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


class FinalMasks:
    """Final masks: a human correction where there is one, otherwise the pseudo mask."""

    def __init__(self, own: Path, decided: Decided) -> None:
        """Keep the folder of pseudo masks ID.png, which need not be there, and the decisions; nothing is opened."""
        self.own, self.decided = own, decided

    def __truediv__(self, name: str) -> Path:
        """The final mask of the name ID.png; it need not be there.

        Raises:
            Tag2maskError: the decision about the image is damaged.
        """
        return self.decided.mask(name.removesuffix(".png")) or self.own / name

    def __str__(self) -> str:
        return str(self.own)

    def is_by_hand(self, photo_id: str) -> bool:
        """Whether the final mask is a human correction, which has the size of its image."""
        return self.decided.has_mask(photo_id)


def read_decided(folder: Path | None, classes: Sequence[str]) -> tuple[Decided, list[Problem]]:
    """Every decision in a folder (`data.corrections`; None for none), and what makes the folder unusable.

    A single damaged decision does not. ``classes`` are the names of the classes 1..C.
    """
    if folder is None:
        return Decided(), []
    try:
        is_there = folder.exists()
    except OSError:  # a name too long
        is_there = False
    if not is_there:
        message = "data.corrections does not exist; name the folder of a review or of `tag2mask import`, or null"
        return Decided(), [error("bad-corrections", str(folder), message)]
    try:
        corrections = Corrections(folder, classes)
    except Tag2maskError as reason:
        return Decided(), [error("bad-corrections", "data.corrections", str(reason))]
    verdicts: dict[str, Verdict] = {}
    tags: dict[str, tuple[int, ...]] = {}
    damaged: dict[str, str] = {}
    problems: list[Problem] = []
    ids = {name: number for number, name in enumerate(classes, 1)}
    for photo_id in corrections.ids():
        try:
            decision = _decision(corrections, photo_id)
        except Tag2maskError as reason:
            damaged[photo_id] = str(reason)
            continue
        if decision is None:  # taken back just now
            continue
        if decision.verdict is not None:
            verdicts[photo_id] = decision.verdict
        if decision.tags is not None:
            tags[photo_id] = tuple(sorted({ids[tag] for tag in decision.tags if tag in ids}))
            problems += _unknown_tags(folder / f"{photo_id}.json", decision, classes)
    masks = any(verdict != "rejected" for verdict in verdicts.values())
    return Decided(folder, verdicts, tags, damaged, masks and not corrections.is_recorded), problems


def _decision(corrections: Corrections, photo_id: str) -> Decision | None:
    """A decision whose mask is there where it has one; a review may change it meanwhile.

    Raises:
        Tag2maskError: it is damaged, or its mask is not there.
    """
    decision = corrections.decision(photo_id)
    if decision is None or not decision.has_mask or corrections.stored_mask(photo_id):
        return decision
    again = corrections.decision(photo_id)
    if again == decision:
        path = corrections.folder / f"{photo_id}.json"
        raise Tag2maskError(f"{path} says `{decision.verdict}`, and there is no mask beside it; decide again")
    return again


def _unknown_tags(path: Path, decision: Decision, classes: Sequence[str]) -> Iterator[Problem]:
    """Tags that are no classes."""
    for tag in decision.tags or ():
        if tag not in classes:
            hint = did_you_mean(tag, classes) or "; the classes are those of the data set, or of data.classes"
            yield error("unknown-tag", str(path), f"the tag `{tag}` is not in the class list{hint}")
