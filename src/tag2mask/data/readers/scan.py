"""What a reader finds in a data set, before tags become class ids; and the files of folders."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.data.file_names import is_hidden, is_image_name, on_disk, shown_below
from tag2mask.data.problems import Problem
from tag2mask.data.readers.entries import Entries, Entry

if TYPE_CHECKING:
    from tag2mask.data.readers.rasterise import Rasterisation


class MaskLocation(NamedTuple):
    """Where ground-truth masks lie: FOLDER/ID.png, or a name made from the ID.

    Attributes:
        folder: of the masks.
        suffix: what follows the ID.
        without: what the ID begins with and the mask's name does not.
    """

    folder: Path
    suffix: str = ".png"
    without: str = ""

    def path(self, image_id: str) -> str:
        """Where the mask of an ID should be, as it is spelt on disk."""
        return on_disk(f"{self.folder}/{image_id.removeprefix(self.without)}{self.suffix}")


MASK_SUFFIX = "_mask.png"  # what is added to the name of an image in the name of its mask, as inspection sets have it


def mask_locations(*folders: Path | None) -> tuple[MaskLocation, ...]:
    """The places of masks in folders, those that are None left out."""
    return tuple(MaskLocation(folder, suffix) for folder in folders if folder for suffix in (".png", MASK_SUFFIX))


@dataclass
class Listing:
    """What a reader found.

    Attributes:
        kind: the layout that was read.
        root: the folder that subjects of problems are relative to.
        entries: the images of the split, in the order of the list; those of a bad line are left out.
        names: class names that the data set knows: the official list, or all tags whatever the split.
        official: whether ``names`` is a list that tags must be in.
        masks: where ground-truth masks are looked for, the first that has one wins.
        splits: images in each split that the data set has.
        rasterisation: the source of masks that are painted when they are first needed; None where nothing is painted.
        notes: how the data set was understood.
        problems: what is wrong.
    """

    kind: str
    root: Path
    entries: Entries = field(default_factory=Entries)
    names: tuple[str, ...] = ()
    official: bool = False
    masks: tuple[MaskLocation, ...] = ()
    splits: dict[str, int] = field(default_factory=dict)
    rasterisation: "Rasterisation | None" = None
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def shown(self, path: Path) -> str:
        """``path`` as it is shown: relative to the root where it lies inside."""
        return shown_below(path, self.root)

    def where(self, entry: Entry) -> str:
        """The place that lists ``entry``, with its line, or else the image itself."""
        if not entry.source:
            return self.shown(entry.path)
        return f"{entry.source} line {entry.line}" if entry.line else entry.source


class FolderIndex:
    """Whether files exist; each folder is read once. It keeps 8 bytes per name, its hash."""

    def __init__(self) -> None:
        """Start with nothing read."""
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
    """For each missing file, one in its folder that differs only in case or suffix, if there is one."""
    wanted: dict[str, dict[str, list[str]]] = {}
    for file in files:
        folder, name = os.path.split(file)
        # A name without a suffix that ends in ".5" has one as far as anybody can tell.
        for stem in {os.path.splitext(name)[0].casefold(), name.casefold()}:  # noqa: PTH122
            wanted.setdefault(folder, {}).setdefault(stem, []).append(file)
    found: dict[str, str] = {}
    for folder, stems in wanted.items():
        for name in each_file(folder or "."):
            for file in stems.get(os.path.splitext(name)[0].casefold(), ()):  # noqa: PTH122
                found[file] = min(name, found.get(file, name))
    return found


def file_names(folder: Path | str) -> frozenset[str]:
    """The names of the files in ``folder``; none if it does not exist or cannot be read."""
    return frozenset(each_file(folder))


def each_file(folder: Path | str) -> Iterator[str]:
    """The names of the files in ``folder``, one after another; none if it does not exist or cannot be read."""
    try:
        with os.scandir(folder) as found:
            yield from (item.name for item in found if _is(item, os.DirEntry.is_file))
    except OSError:
        return


def walk_files(folder: Path, *, skip: Iterable[Path] = ()) -> Iterator[tuple[str, bool]]:
    """All files below ``folder``, without hidden files and those of systems, sorted by name within each folder.

    Args:
        folder: where to begin; links to folders are followed, but not into a loop.
        skip: folders that are not entered, whatever way leads to them.

    Yields:
        (the path relative to ``folder`` with forward slashes, whether it is named like an image).

    Raises:
        OSError: a folder cannot be read.
    """
    return _walk(folder, "", frozenset(_identity(each) for each in skip if each.is_dir()))


def _walk(folder: Path, below: str, closed: frozenset[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """As `walk_files`; ``closed`` are the folders that lead here, and those that are skipped."""
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
    """The same for all paths of a folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is(item: "os.DirEntry[str]", kind: Callable[["os.DirEntry[str]"], bool]) -> bool:
    """Whether an item of a folder is of a kind; a link to itself is not."""
    try:
        return kind(item)
    except OSError:
        return False
