"""The result of a reader, before tags become class ids; and the files of folders."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import first_five
from tag2mask.data.classes import did_you_mean
from tag2mask.data.file_names import is_hidden, is_image_name, on_disk, shown_below
from tag2mask.data.problems import Problem, error
from tag2mask.data.readers.entries import Entries, Entry

if TYPE_CHECKING:
    from tag2mask.data.readers.rasterise import Rasterisation


class MaskLocation(NamedTuple):
    """The path of the ground-truth mask of an ID."""

    folder: Path
    suffix: str = ".png"
    without: str = ""  # a prefix of the ID that the path of the mask does not have

    def path(self, image_id: str) -> str:
        """``folder``/ID``suffix``, as spelt on disk."""
        return on_disk(f"{self.folder}/{image_id.removeprefix(self.without)}{self.suffix}")


MASK_SUFFIX = "_mask.png"  # NAME_mask.png is the mask of the image NAME in inspection data sets


def mask_locations(*folders: Path | None) -> tuple[MaskLocation, ...]:
    """The mask locations in folders; None is skipped."""
    return tuple(MaskLocation(folder, suffix) for folder in folders if folder for suffix in (".png", MASK_SUFFIX))


@dataclass
class Listing:
    """The result of a reader."""

    kind: str  # the layout
    root: Path  # problems show paths relative to it
    entries: Entries = field(default_factory=Entries)  # the images of the split, in order, without invalid lines
    names: tuple[str, ...] = ()  # classes: the official list, or all tags of all splits
    official: bool = False  # whether tags must be in `names`
    masks: tuple[MaskLocation, ...] = ()  # of ground truth, by precedence
    splits: dict[str, int] = field(default_factory=dict)  # images in each split of the data set
    rasterisation: "Rasterisation | None" = None  # the source of masks that are made from annotations on first use
    notes: list[str] = field(default_factory=list)  # how the data set was interpreted
    problems: list[Problem] = field(default_factory=list)

    def shown(self, path: Path) -> str:
        """``path`` for messages: relative to the root if it is inside."""
        return shown_below(path, self.root)

    def where(self, entry: Entry) -> str:
        """The file that lists ``entry``, with the line; otherwise the image itself."""
        if not entry.source:
            return self.shown(entry.path)
        return f"{entry.source} line {entry.line}" if entry.line else entry.source


def split_error(subject: str, missing: str, split: str, known: Iterable[str], remedy: str = "") -> Problem:
    """The error that ``missing`` (a clause) is not there, with the known splits."""
    names = list(known)
    there = f"there are {first_five(names)}{did_you_mean(split, names)}" if names else "there are none"
    return error("bad-split", subject, f"{missing}, {there}{remedy}")


class FolderIndex:
    """Checks whether files exist, and reads each folder once. It stores 8 bytes per name, its hash."""

    def __init__(self) -> None:
        """Start without any folder."""
        self._hashes: dict[str, npt.NDArray[np.int64]] = {}

    def has(self, path: Path | str) -> bool:
        """Whether ``path`` is a file."""
        folder, name = os.path.split(path)  # far cheaper than the parent of a Path
        if folder not in self._hashes:
            hashes = np.fromiter((hash(each) for each in each_file(folder or ".")), dtype=np.int64)
            hashes.sort()
            self._hashes[folder] = hashes
        hashes, own = self._hashes[folder], hash(name)
        place = int(np.searchsorted(hashes, own))
        return place < len(hashes) and bool(hashes[place] == own)


def similar_files(files: Iterable[str]) -> dict[str, str]:
    """For each missing file, a file of its folder that differs only in case or suffix, if any."""
    wanted: dict[str, dict[str, list[str]]] = {}
    for file in files:
        folder, name = os.path.split(file)
        # A name such as "image 1.5" may have no suffix.
        for stem in {os.path.splitext(name)[0].casefold(), name.casefold()}:  # noqa: PTH122
            wanted.setdefault(folder, {}).setdefault(stem, []).append(file)
    found: dict[str, str] = {}
    for folder, stems in wanted.items():
        for name in each_file(folder or "."):
            for file in stems.get(os.path.splitext(name)[0].casefold(), ()):  # noqa: PTH122
                found[file] = min(name, found.get(file, name))
    return found


def file_names(folder: Path | str) -> frozenset[str]:
    """The files in ``folder``; none if it does not exist."""
    return frozenset(each_file(folder))


def each_file(folder: Path | str) -> Iterator[str]:
    """The files in ``folder``, one after another; none if it does not exist.

    Raises:
        PermissionError: it may not be read.
    """
    try:
        with os.scandir(folder) as found:
            yield from (item.name for item in found if _is(item, os.DirEntry.is_file))
    except PermissionError:
        raise
    except OSError:
        return


def walk_files(folder: Path, *, skip: Iterable[Path] = ()) -> Iterator[tuple[str, bool]]:
    """All files below ``folder`` except hidden and system files, sorted by name within each folder.

    Links to folders are followed, but not into a loop. Folders in ``skip`` are not entered, also through links.

    Yields:
        (the path relative to ``folder`` with forward slashes, whether it has an image name).

    Raises:
        OSError: a folder cannot be read.
    """
    return _walk(folder, "", frozenset(_identity(each) for each in skip if each.is_dir()))


def _walk(folder: Path, below: str, closed: frozenset[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    # ``closed``: the parent folders and the skipped folders.
    identity = _identity(folder)
    if identity in closed:
        return
    with os.scandir(folder) as found:
        shown = (item for item in found if not is_hidden(item.name))
        items = sorted((item.name, _is(item, os.DirEntry.is_dir), _is(item, os.DirEntry.is_file)) for item in shown)
    for name, is_folder, is_file in items:
        if is_folder:
            yield from _walk(folder / name, f"{below}{name}/", closed | {identity})
        elif is_file:
            yield below + name, is_image_name(name)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is(item: "os.DirEntry[str]", kind: Callable[["os.DirEntry[str]"], bool]) -> bool:
    try:
        return kind(item)
    except OSError:  # a link to itself
        return False
