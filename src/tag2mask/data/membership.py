"""In which splits each photograph of a data set is: a few bytes a photograph."""

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tag2mask.data.listing import Listing
from tag2mask.data.photo import Photos
from tag2mask.data.settings import DataSettings
from tag2mask.data.table import TABLE_NAME, Table, read_table
from tag2mask.data.table_paths import TablePaths
from tag2mask.data.voc import voc_lists

MOST_SPLITS = 64
"""Splits beyond these are not told apart."""

Members = npt.NDArray[np.uint64]


def memberships(listing: Listing, settings: DataSettings, photos: Photos) -> Members:
    """The splits of each photograph.

    Args:
        listing: of the data set.
        settings: by which it was read; with a split of its own there is nothing to tell apart.
        photos: N of its photographs.

    Returns:
        uint64 (N,): bit k stands for the k-th name in ``listing.splits``.
    """
    names = list(listing.splits)[:MOST_SPLITS]
    if settings.split is not None or len(names) < 2:
        return np.zeros(len(photos), dtype=np.uint64)
    of_kind = {"voc": _of_lists, "coco": _of_folders, "mvtec": _of_folders, "table": _of_rows}
    return of_kind[listing.kind](listing, settings, photos, names)


def apart(one: int, other: int) -> bool:
    """Whether two photographs lie in different splits: each is in one that the other is not in."""
    return bool(one & ~other) and bool(other & ~one)


def split_names(listing: Listing, member: int) -> str:
    """The names of the splits of a photograph, with commas."""
    return ", ".join(name for number, name in enumerate(listing.splits) if member >> number & 1)


def _of_lists(listing: Listing, settings: DataSettings, photos: Photos, names: list[str]) -> Members:
    lists = voc_lists(listing.root)
    found = (sum(1 << bit for bit, name in enumerate(names) if photo.id in lists[name].lines) for photo in photos)
    return np.fromiter(found, dtype=np.uint64, count=len(photos))


def _of_folders(listing: Listing, settings: DataSettings, photos: Photos, names: list[str]) -> Members:
    folders = {f"{listing.root / name}/": 1 << bit for bit, name in enumerate(names)}
    found = (
        next((value for folder, value in folders.items() if str(photo.path).startswith(folder)), 0) for photo in photos
    )
    return np.fromiter(found, dtype=np.uint64, count=len(photos))


def _of_rows(listing: Listing, settings: DataSettings, photos: Photos, names: list[str]) -> Members:
    # The table is read once more: a hash and a byte of each row take less memory than a dictionary of IDs.
    numbers = {name: bit for bit, name in enumerate(names)}
    rows = ((hash(name), numbers.get(split, MOST_SPLITS)) for name, split in _rows(listing, settings))
    table = np.fromiter(rows, dtype=[("id", np.int64), ("split", np.uint8)])
    table.sort(order="id")
    wanted = np.fromiter((hash(photo.id) for photo in photos), dtype=np.int64, count=len(photos))
    places = np.minimum(np.searchsorted(table["id"], wanted), len(table) - 1)
    splits = table["split"][places]
    known = (table["id"][places] == wanted) & (splits < MOST_SPLITS)
    return np.where(known, np.uint64(1) << splits.astype(np.uint64), np.uint64(0))


def _rows(listing: Listing, settings: DataSettings) -> Iterator[tuple[str, str]]:
    """The ID and the split of each photograph in a table."""
    path, paths = settings.tags or listing.root / TABLE_NAME, TablePaths(listing.root)
    for row in read_table(path, Table(str(path)), settings):
        inside = paths.inside(row.image)
        if inside is not None:
            yield os.path.splitext(inside)[0], row.split or ""  # noqa: PTH122
