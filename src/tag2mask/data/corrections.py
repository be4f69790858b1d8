"""Decisions of people about masks: a folder of accepted and corrected masks, of rejections and of changed tags.

FOLDER/
  corrections.json    the class list, in the order of the ids
  ID.png              a mask that somebody accepted or drew
  ID.json             the decision: {"verdict": …, "tags": […], "at": …}

A folder of ID.png that `import` wrote is one too: every mask in it is a corrected one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import TEMPORARY_PREFIX, read_json, write_json
from tag2mask.data.classes import did_you_mean
from tag2mask.data.file_names import nfc, on_disk
from tag2mask.data.images import write_mask
from tag2mask.data.problems import Problem, error, one_line

Verdict = Literal["accepted", "corrected", "rejected"]
"""A decision about a mask: right as it is, corrected by hand, or not to be used."""

RECORD = "corrections.json"
"""The file with the class list in the folder of a review."""

IMPORTED = "tag2mask-export.json"
"""The file with the class list in a folder that `import` wrote."""

_RECORDS = (RECORD, IMPORTED)


@dataclass(frozen=True)
class Decision:
    """The decision about one image.

    Attributes:
        verdict: of its mask; None without one.
        tags: names of all its classes, which replace the tags of the data set; None if those are right.
        at: the time, ISO 8601; empty where it is not known.
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
        """Whether a mask is kept with it."""
        return self.verdict in ("accepted", "corrected")


class Corrections:
    """The decisions in one folder; each is read and written as a whole."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        """Compare the class lists; nothing is written yet.

        Args:
            folder: of the decisions; need not exist yet.
            classes: the names of the classes 1..C.

        Raises:
            UsageError: it is a file, or its masks are of other classes.
        """
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; corrections are a folder of ID.png and ID.json")
        self.folder, self.classes = folder, tuple(classes)
        for record in (folder / name for name in _RECORDS):
            if record.is_file() and (known := _classes(record)) != self.classes:
                raise UsageError(
                    f"{folder} holds corrections of the classes {first_five(known)}, and these are "
                    f"{first_five(self.classes)}: ids would mean other classes; use the same data.classes"
                )

    @property
    def is_recorded(self) -> bool:
        """Whether the folder has a class list."""
        return any((self.folder / name).is_file() for name in _RECORDS)

    def decision(self, image_id: str) -> Decision | None:
        """The decision about an image; None without one.

        Raises:
            Tag2maskError: the file is damaged, or cannot be there.
        """
        path = self._file(image_id, "json")
        try:
            if path.is_file():
                return _decision(path)
            return Decision("corrected") if self._file(image_id, "png").is_file() else None
        except OSError as error:  # a name too long
            raise Tag2maskError(f"{path} could not be looked for ({error.strerror}); rename its image") from error
        except Tag2maskError:
            if path.is_file():
                raise
            return None  # taken back in this moment

    def mask(self, image_id: str) -> Path | None:
        """The mask that somebody accepted or drew; None if there is none."""
        path = self.stored_mask(image_id)
        decision = None if path is None else self.decision(image_id)
        return path if decision is not None and decision.has_mask else None

    def stored_mask(self, image_id: str) -> Path | None:
        """The file of a mask, even if its decision is damaged; None if there is none."""
        path = self._file(image_id, "png")
        return path if path.is_file() else None

    def write(self, image_id: str, decision: Decision, mask: npt.NDArray[np.uint8] | None = None) -> None:
        """Write the decision about an image, which replaces an earlier one.

        Args:
            image_id: of the image.
            decision: the decision.
            mask: class ids, uint8 (H, W), 255 = ignored; given if and only if `Decision.has_mask`.

        Raises:
            ValueError: a mask is missing, or not expected.
        """
        if decision.has_mask != (mask is not None):
            raise ValueError(f"a decision `{decision.verdict}` {'needs a' if decision.has_mask else 'has no'} mask")
        path = self._file(image_id, "png")
        if not (self.folder / RECORD).is_file():
            write_json(self.folder / RECORD, {"classes": list(self.classes)})
        if mask is not None:
            write_mask(path, mask)
        tags = None if decision.tags is None else list(decision.tags)
        write_json(path.with_name(f"{path.stem}.json"), {"verdict": decision.verdict, "tags": tags, "at": decision.at})
        if mask is None:
            path.unlink(missing_ok=True)

    def forget(self, image_id: str) -> None:
        """Remove the decision about an image.

        A decision without its mask is damaged, and a mask alone is a corrected one. So an empty decision is written
        before the mask is removed: concurrent readers, or those after a kill, see neither.
        """
        path, mask = self._file(image_id, "json"), self._file(image_id, "png")
        if mask.is_file():
            write_json(path, {"verdict": None, "tags": None, "at": ""})
            mask.unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def ids(self) -> Iterator[str]:
        """The images with a decision, sorted."""
        files = self.folder.rglob("*") if self.folder.is_dir() else ()
        names = {
            nfc(path.relative_to(self.folder).with_suffix("").as_posix())
            for path in files
            if path.suffix in (".png", ".json") and not path.name.startswith(TEMPORARY_PREFIX)
        }
        taken = {Path(name).stem for name in _RECORDS}
        yield from sorted(name for name in names if name not in taken or (self.folder / f"{name}.png").is_file())

    def _file(self, image_id: str, suffix: str) -> Path:
        """A file of an image; its ID must not lead out of the folder, or to the class list."""
        parts = image_id.split("/")
        if f"{image_id}.json" in _RECORDS:
            raise Tag2maskError(
                f"the image {image_id} has the name of the record {self.folder / image_id}.json, so nothing can "
                "be decided about it; rename it"
            )
        if any(part in ("", ".", "..") for part in parts) or "\0" in image_id:
            raise Tag2maskError(f"{one_line(image_id)!r} is no ID of an image: it leads out of {self.folder}")
        return Path(on_disk(f"{self.folder}/{image_id}.{suffix}"))


def _classes(record: Path) -> tuple[str, ...]:
    """The class list of a folder."""
    try:
        names = read_json(record)["classes"]
    except (Tag2maskError, KeyError, TypeError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Tag2maskError(
            f"{record} says no classes; it alone says what the ids in the masks beside it mean, so do not delete it: "
            'write the class list back, {"classes": [names in the order of the ids 1, 2, …]}'
        )
    return tuple(names)


def _decision(path: Path) -> Decision:
    """Read ID.json."""
    try:
        said: Any = read_json(path)
    except Tag2maskError as error:
        raise Tag2maskError(f"{path} could not be read as JSON; correct it, or delete it and decide again") from error
    verdict, tags, at = (said.get(name) if isinstance(said, dict) else None for name in ("verdict", "tags", "at"))
    sound = verdict is None or verdict in get_args(Verdict)
    sound = sound and (tags is None or (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)))
    if not isinstance(said, dict) or not sound:
        verdicts = ", ".join(get_args(Verdict))
        raise Tag2maskError(f"{path} is no decision: its verdict should be {verdicts} or null, its tags names or null")
    return Decision(verdict, None if tags is None else tuple(tags), str(at or ""))


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

    def mask(self, image_id: str) -> Path | None:
        """The mask that somebody accepted or drew; None if there is none.

        Raises:
            Tag2maskError: what was decided is damaged.
        """
        if image_id in self.damaged:
            raise Tag2maskError(self.damaged[image_id])
        if self.folder is None or not self.has_mask(image_id):
            return None
        return Path(on_disk(f"{self.folder}/{image_id}.png"))

    def has_mask(self, image_id: str) -> bool:
        """Whether somebody accepted or drew a mask."""
        return self.verdicts.get(image_id) in ("accepted", "corrected")

    def is_rejected(self, image_id: str) -> bool:
        """Whether the mask of an image is not to be used."""
        return self.verdicts.get(image_id) == "rejected"

    def count(self, image_ids: Iterable[str], *verdicts: Verdict) -> int:
        """How many of some images have one of these verdicts."""
        return sum(self.verdicts.get(image_id) in verdicts for image_id in image_ids) if self.verdicts else 0

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

    def is_by_hand(self, image_id: str) -> bool:
        """Whether the final mask is a human correction, which has the size of its image."""
        return self.decided.has_mask(image_id)


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
    for image_id in corrections.ids():
        try:
            decision = _sound_decision(corrections, image_id)
        except Tag2maskError as reason:
            damaged[image_id] = str(reason)
            continue
        if decision is None:  # taken back just now
            continue
        if decision.verdict is not None:
            verdicts[image_id] = decision.verdict
        if decision.tags is not None:
            tags[image_id] = tuple(sorted({ids[tag] for tag in decision.tags if tag in ids}))
            problems += _unknown_tags(folder / f"{image_id}.json", decision, classes)
    masks = any(verdict != "rejected" for verdict in verdicts.values())
    return Decided(folder, verdicts, tags, damaged, masks and not corrections.is_recorded), problems


def _sound_decision(corrections: Corrections, image_id: str) -> Decision | None:
    """A decision whose mask is there where it has one; a review may change it meanwhile.

    Raises:
        Tag2maskError: it is damaged, or its mask is not there.
    """
    decision = corrections.decision(image_id)
    if decision is None or not decision.has_mask or corrections.stored_mask(image_id):
        return decision
    again = corrections.decision(image_id)
    if again == decision:
        path = corrections.folder / f"{image_id}.json"
        raise Tag2maskError(f"{path} says `{decision.verdict}`, and there is no mask beside it; decide again")
    return again


def _unknown_tags(path: Path, decision: Decision, classes: Sequence[str]) -> Iterator[Problem]:
    """Tags that are no classes."""
    for tag in decision.tags or ():
        if tag not in classes:
            hint = did_you_mean(tag, classes) or "; the classes are those of the data set, or of data.classes"
            yield error("unknown-tag", str(path), f"the tag `{tag}` is not in the class list{hint}")
