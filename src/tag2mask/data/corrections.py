"""Corrections by hand: a folder with accepted and corrected masks, rejections and changed tags.

FOLDER/
  corrections.json    the class list, in the order of the ids
  ID.png              a mask that was accepted or corrected
  ID.json             the decision: {"verdict": …, "tags": […], "at": …}

A decision is complete once ID.json is written; an ID.png without it is not used.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import atomic_path, files_below, read_json, remove_partial, require_inside, version, write_json
from tag2mask.data.classes import did_you_mean
from tag2mask.data.file_names import leads_out, nfc, on_disk
from tag2mask.data.images import write_mask
from tag2mask.data.problems import Problem, error, one_line

Verdict = Literal["accepted", "corrected", "rejected"]
"""A decision about a mask: right as it is, corrected by hand, or not to be used."""

RECORD = "corrections.json"
"""The file with the class list."""


@dataclass(frozen=True)
class Decision:
    """The decision about one image.

    Attributes:
        verdict: of its mask; None without one.
        tags: names of all its classes, which replace the tags of the data set; None if those are right.
        at: the time, ISO 8601.
    """

    verdict: Verdict | None = None
    tags: tuple[str, ...] | None = None
    at: str = ""

    @classmethod
    def now(cls, verdict: Verdict | None = None, tags: Sequence[str] | None = None) -> "Decision":
        """A decision that is made at this moment."""
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(verdict, None if tags is None else tuple(tags), at)

    @property
    def has_mask(self) -> bool:
        """Whether a mask is stored with it."""
        return self.verdict in ("accepted", "corrected")


class CorrectionsFolder:
    """The folder of corrections, read and written one decision at a time."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        """Compare the class lists; nothing is written.

        Args:
            folder: need not exist.
            classes: the names of the classes 1..C.

        Raises:
            UsageError: ``folder`` is a file, or its masks are of other classes.
        """
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; corrections are a folder of ID.png and ID.json")
        self.folder, self.classes = folder, tuple(classes)
        record = folder / RECORD
        if record.is_file() and (known := _classes(record)) != self.classes:
            raise UsageError(
                f"{folder} holds corrections of the classes {first_five(known)}, and these are "
                f"{first_five(self.classes)}: ids would mean other classes; use the same data.classes"
            )

    def decision(self, image_id: str) -> Decision | None:
        """The decision about an image; None without one.

        Raises:
            Tag2maskError: the file is damaged, or its name is not possible.
        """
        path = self._file(image_id, "json")
        try:
            return _decision(path) if path.is_file() else None
        except OSError as error:  # a name too long
            raise Tag2maskError(f"{path} could not be looked for ({error.strerror}); rename its image") from error
        except Tag2maskError:
            if path.is_file():
                raise
            return None  # undone at this moment

    def mask(self, image_id: str) -> Path | None:
        """The accepted or corrected mask; None without one."""
        decision = self.decision(image_id)
        return self.stored_mask(image_id) if decision is not None and decision.has_mask else None

    def stored_mask(self, image_id: str) -> Path | None:
        """The file of a mask, also where its decision is damaged; None without one."""
        path = self._file(image_id, "png")
        return path if path.is_file() else None

    def version(self, image_id: str) -> str:
        """A text that changes with each decision about an image; empty without one."""
        return version(self._file(image_id, "json"))

    def write(self, image_id: str, decision: Decision, mask: npt.NDArray[np.uint8] | None = None) -> None:
        """Write the decision about an image, which replaces an earlier one; after an error, the earlier one stands.

        Args:
            image_id: of the image.
            decision: the decision.
            mask: class ids, uint8 (H, W), 255 = ignored; given if and only if `Decision.has_mask`.

        Raises:
            ValueError: a mask is missing, or not expected.
            UsageError: a link leads out of the run.
        """
        if decision.has_mask != (mask is not None):
            raise ValueError(f"a decision `{decision.verdict}` {'needs a' if decision.has_mask else 'has no'} mask")
        path = self._file(image_id, "png")
        require_inside(self.folder.parent, path)
        if not (self.folder / RECORD).is_file():
            write_json(self.folder / RECORD, {"classes": list(self.classes)})
        tags = None if decision.tags is None else list(decision.tags)
        with atomic_path(self._file(image_id, "json")) as temporary:  # on the disk before the mask is replaced
            write_json(temporary, {"verdict": decision.verdict, "tags": tags, "at": decision.at})
            if mask is not None:
                write_mask(path, mask)
        if mask is None:
            path.unlink(missing_ok=True)

    def forget(self, image_id: str) -> None:
        """Remove the decision about an image: first ID.json, since a decision without its mask is damaged."""
        for suffix in ("json", "png"):
            require_inside(self.folder.parent, path := self._file(image_id, suffix))
            path.unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Delete the temporary files of killed processes.

        Raises:
            UsageError: a link leads out of the run.
        """
        require_inside(self.folder.parent, self.folder / RECORD)
        remove_partial(self.folder)

    def ids(self) -> list[str]:
        """The images with a decision, sorted."""
        return sorted(self._names(".json") - {RECORD.removesuffix(".json")})

    def unused_masks(self, ids: Iterable[str]) -> list[str]:
        """The masks whose ID is not one of these, sorted."""
        return sorted(self._names(".png") - {*ids})

    def _names(self, suffix: str) -> set[str]:
        return {nfc(name.removesuffix(suffix)) for name in files_below(self.folder, suffix)}

    def _file(self, image_id: str, suffix: str) -> Path:
        """A file of an image; its ID must not lead out of the folder, or to the class list."""
        if f"{image_id}.json" == RECORD:
            raise Tag2maskError(
                f"the image {image_id} has the name of the record {self.folder / RECORD}, so nothing can "
                "be decided about it; rename it"
            )
        if leads_out(image_id):
            raise Tag2maskError(f"{one_line(image_id)!r} is not the ID of an image: it leads out of {self.folder}")
        return Path(on_disk(f"{self.folder}/{image_id}.{suffix}"))


def _classes(record: Path) -> tuple[str, ...]:
    try:
        names = read_json(record)["classes"]
    except (Tag2maskError, KeyError, TypeError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Tag2maskError(
            f"{record} does not name the classes of the masks in its folder, and nothing else does, so do not delete "
            'it: write the class list back, {"classes": [names in the order of the ids 1, 2, …]}'
        )
    return tuple(names)


def _decision(path: Path) -> Decision:
    """Read ID.json."""
    try:
        value = read_json(path)
    except Tag2maskError as error:
        raise Tag2maskError(f"{path} could not be read as JSON; correct it, or delete it and decide again") from error
    verdict, tags, at = (value.get(name) for name in ("verdict", "tags", "at"))
    valid = verdict is None or verdict in get_args(Verdict)
    if not valid or not (tags is None or (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags))):
        verdicts = ", ".join(get_args(Verdict))
        raise Tag2maskError(
            f"{path} is not a decision: its verdict should be {verdicts} or null, its tags names or null"
        )
    return Decision(verdict, None if tags is None else tuple(tags), str(at or ""))


@dataclass(frozen=True)
class Corrections:
    """A snapshot of the decisions in a folder.

    Attributes:
        folder: of the decisions; None without one.
        verdicts: of masks, by the ID of the image.
        tags: class ids in ascending order that replace the tags of the data set, by ID.
        damaged: why a decision cannot be used, by ID.
        unused: a warning about masks without a decision; empty without any.
    """

    folder: Path | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    tags: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    unused: str = ""

    def mask(self, image_id: str) -> Path | None:
        """The accepted or corrected mask; None without one.

        Raises:
            Tag2maskError: the decision is damaged.
        """
        if image_id in self.damaged:
            raise Tag2maskError(self.damaged[image_id])
        return Path(on_disk(f"{self.folder}/{image_id}.png")) if self.has_mask(image_id) else None

    def has_mask(self, image_id: str) -> bool:
        """Whether there is an accepted or corrected mask."""
        return self.verdicts.get(image_id) in ("accepted", "corrected")

    def is_rejected(self, image_id: str) -> bool:
        """Whether the mask of an image is not to be used."""
        return self.verdicts.get(image_id) == "rejected"

    def count(self, image_ids: Iterable[str], *verdicts: Verdict) -> int:
        """The number of these images with one of these verdicts."""
        return sum(self.verdicts.get(image_id) in verdicts for image_id in image_ids) if self.verdicts else 0

    def ids(self) -> set[str]:
        """The images with any decision."""
        return {*self.verdicts, *self.tags, *self.damaged}

    def summary(self) -> str:
        """The number of decisions of each kind, in words; empty without any."""
        verdicts = Counter[str](self.verdicts.values())
        counts = {name: verdicts[name] for name in get_args(Verdict)}
        counts |= {"with other tags": len(self.tags), "damaged": len(self.damaged)}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


class FinalMasks:
    """Final masks: a human correction where there is one, otherwise the pseudo mask."""

    def __init__(self, pseudo_masks: Path, corrections: Corrections) -> None:
        """Keep the folder of pseudo masks ID.png, which need not exist, and the corrections; nothing is opened."""
        self.pseudo_masks, self.corrections = pseudo_masks, corrections

    def __truediv__(self, name: str) -> Path:
        """The final mask of the name ID.png; it need not exist.

        Raises:
            Tag2maskError: the decision about the image is damaged.
        """
        return self.corrections.mask(name.removesuffix(".png")) or self.pseudo_masks / name

    def __str__(self) -> str:
        return str(self.pseudo_masks)

    def is_by_hand(self, image_id: str) -> bool:
        """Whether the final mask is a human correction, which has the size of its image."""
        return self.corrections.has_mask(image_id)


def read_corrections(path: Path, classes: Sequence[str]) -> tuple[Corrections, list[Problem]]:
    """Every decision in a folder, and the problems that make the folder unusable.

    A single damaged decision is not such a problem. ``path`` need not exist; ``classes`` are the names of 1..C.
    """
    if not path.exists():
        return Corrections(), []
    verdicts: dict[str, Verdict] = {}
    tags: dict[str, tuple[int, ...]] = {}
    damaged: dict[str, str] = {}
    problems: list[Problem] = []
    ids = {name: number for number, name in enumerate(classes, 1)}
    try:
        folder = CorrectionsFolder(path, classes)
        decided = folder.ids()
        for image_id in decided:
            try:
                decision = _complete_decision(folder, image_id)
            except Tag2maskError as reason:
                damaged[image_id] = str(reason)
                continue
            if decision is None:
                continue
            if decision.verdict is not None:
                verdicts[image_id] = decision.verdict
            if decision.tags is not None:
                tags[image_id] = tuple(sorted({ids[tag] for tag in decision.tags if tag in ids}))
                problems += _unknown_tags(path / f"{image_id}.json", decision.tags, classes)
        if any(verdict != "rejected" for verdict in verdicts.values()):
            _classes(path / RECORD)  # without it the ids in the masks mean nothing
    except Tag2maskError as reason:
        return Corrections(), [error("bad-corrections", str(path), str(reason))]
    unused = folder.unused_masks(decided)
    warning = f"{len(unused)} masks have no decision ID.json and are not used: {first_five(unused)}; "
    warning += "`tag2mask import masks FOLDER RUN` takes masks from elsewhere"
    return Corrections(path, verdicts, tags, damaged, warning if unused else ""), problems


def _complete_decision(folder: CorrectionsFolder, image_id: str) -> Decision | None:
    """A decision whose mask exists where it has one; a review may change it meanwhile.

    Raises:
        Tag2maskError: it is damaged, or its mask does not exist.
    """
    decision = folder.decision(image_id)
    if decision is None or not decision.has_mask or folder.stored_mask(image_id):
        return decision
    again = folder.decision(image_id)
    if again == decision:
        path = folder.folder / f"{image_id}.json"
        raise Tag2maskError(f"{path} says `{decision.verdict}`, and its mask is missing; decide again")
    return again


def _unknown_tags(path: Path, tags: Sequence[str], classes: Sequence[str]) -> Iterator[Problem]:
    for tag in tags:
        if tag not in classes:
            hint = did_you_mean(tag, classes) or "; the classes are those of the data set, or of data.classes"
            yield error("unknown-tag", str(path), f"the tag `{tag}` is not in the class list{hint}")
