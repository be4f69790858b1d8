"""The tags table: CSV ``image,tags`` with the tags joined by ``;``, or ``image`` and one 0/1 column a class."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tag2mask.data.classes import did_you_mean
from tag2mask.data.entries import Entry
from tag2mask.data.listing import Listing, is_image_name
from tag2mask.data.problems import Problem, error
from tag2mask.data.settings import DataSettings
from tag2mask.errors import first_five

TABLE_NAME = "tags.csv"
"""The table that is looked for in a root."""

SUGGESTED = "suggested"
"""The column of a table of suggestions that holds tags nobody has reviewed."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a tags table.

    Attributes:
        line: its number in the file, from 1; the first one if it is broken by a quoted line end.
        image: what stands in the ``image`` column.
        tags: the names; None where a 0/1 column holds something else.
        split: what stands in the ``split`` column; None if there is none.
    """

    line: int
    image: str
    tags: tuple[str, ...] | None
    split: str | None


@dataclass
class Table:
    """What a tags table comes to, whose lines pass by one after another; complete when all have passed.

    Attributes:
        subject: the file as it is shown.
        rows: how many sound lines it has.
        names: all tags of all lines, sorted; of a table with 0/1 columns the columns, sorted.
        splits: lines of each split; empty without a ``split`` column.
        problems: what is wrong with the file and its lines.
    """

    subject: str
    rows: int = 0
    names: tuple[str, ...] = ()
    splits: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def where(self, line: int) -> str:
        """The file with the line."""
        return f"{self.subject} line {line}"


class TableTags:
    """The tags of a table whose key is the ID or the image; lines of one ID twice become problems of the table.

    Attributes:
        table: what it comes to.
        lines: the line of each ID.
    """

    def __init__(self, path: Path, subject: str) -> None:
        """Read a table and sort its lines by ID.

        Args:
            path: as of `read_table`.
            subject: likewise.
        """
        self.table = table = Table(subject)
        self.lines: dict[str, int] = {}
        self._tags: dict[str, tuple[str, ...] | None] = {}
        for row in read_table(path, table):
            image_id = bare_id(row.image)
            if image_id in self.lines:
                message = f"{image_id} has two lines, the first is line {self.lines[image_id]}; join their tags by `;`"
                table.problems.append(error("duplicate-id", table.where(row.line), message))
            else:
                self.lines[image_id], self._tags[image_id] = row.line, row.tags

    def __call__(self, image_id: str, image: str) -> tuple[str, ...] | Problem | None:
        """The tags of an ID: None where the line is faulty, a problem that offers ``image`` where there is no line."""
        if image_id not in self.lines:
            return error("missing-tags", self.table.subject, f"{image_id} has no line; add `{image},TAGS`")
        return self._tags[image_id]


def bare_id(name: str) -> str:
    """The ID in ``ID``, ``ID.jpg`` or ``/FOLDER/ID.jpg``."""
    last = Path(name.replace("\\", "/"))
    return last.stem if is_image_name(last.name) else last.name


def read_table(path: Path, table: Table) -> Iterator[Row]:
    """The sound lines of a tags table, one after another.

    The file is UTF-8 with or without a byte order mark, columns separated by commas. The header line names the
    columns: ``image`` and either ``tags`` or one column a class; ``split`` is optional; beside ``tags``, others are
    ignored.

    Args:
        path: the file.
        table: is filled on the way, also with what is wrong.
    """
    if path.exists() and not path.is_file():  # a device may have no end, a pipe no beginning
        message = "the tags table is no file; data.tags names a CSV file"
        table.problems.append(error("bad-table", table.subject, message))
        return
    try:
        with path.open("rb") as file:
            has_null = any(b"\0" in block for block in iter(lambda: file.read(_BLOCK), b""))
        if has_null:
            message = "the tags table holds null bytes, as UTF-16 and spreadsheets do; save it as CSV in UTF-8"
            table.problems.append(error("encoding", table.subject, message))
            return
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            yield from _rows(table, lines)
    except OSError as reason:
        message = f"the tags table could not be read ({reason.strerror}); data.tags names a CSV file"
        table.problems.append(error("bad-table", table.subject, message))


def read_table_photos(settings: DataSettings, split: str | None) -> Listing:
    """The photographs that a tags table lists.

    Args:
        settings: where the table is; without ``tags`` it is ROOT/tags.csv, without ``root`` its folder is the root.
        split: a value of the ``split`` column, or None for all lines.
    """
    path = settings.tags or (settings.root or Path()) / TABLE_NAME
    root = settings.root or path.parent
    listing = Listing("table", root, mask_folders=(settings.masks,) if settings.masks else ())
    table = Table(listing.shown(path), problems=listing.problems)
    base = os.path.abspath(root)  # noqa: PTH100 - unlike Path.absolute it takes out "..", unlike resolve it keeps links
    for row in read_table(path, table):
        if split is None or row.split == split:
            inside = path_inside(row.image, base)
            if inside is None:
                message = f"`{row.image}` lies outside the root {root}; move the photograph there or set data.root"
                listing.problems.append(error("outside-root", table.where(row.line), message))
            else:
                image_id = os.path.splitext(inside)[0]  # noqa: PTH122
                file = os.path.join(root, inside)  # noqa: PTH118
                listing.entries.append(Entry(image_id, file, row.tags, table.subject, row.line))
    listing.names, listing.splits = table.names, dict(table.splits)
    if split is not None and split not in table.splits and table.rows:
        listing.problems.append(_split_problem(table, split))
    return listing


def path_inside(name: str, base: str) -> str | None:
    """``name`` relative to the folder ``base`` (absolute) with forward slashes; None if it is not inside.

    Backslashes count as slashes, so that a table written on Windows can be read elsewhere. Links are not followed.
    """
    full = os.path.normpath(os.path.join(base, name.replace("\\", "/")))  # noqa: PTH118
    prefix = base.rstrip(os.sep) + os.sep
    return full[len(prefix) :].replace(os.sep, "/") if full.startswith(prefix) and full != prefix else None


def _rows(table: Table, file: Iterable[str]) -> Iterator[Row]:
    """The sound lines of the file, of which ``table`` is filled."""
    lines = _numbered(table, file)
    line, header = next(lines, (1, []))
    if table.problems:  # what follows an unreadable header cannot be told apart
        return
    columns = [name.strip() for name in header]
    problem = _header_problem(columns)
    if problem:
        table.problems.append(error("bad-table", table.where(line), problem))
        return
    names: set[str] = set()
    known = {name.lower(): place for place, name in enumerate(columns)}
    image, tags, split = known["image"], known.get("tags"), known.get("split")
    classes = {place: name for place, name in enumerate(columns) if place not in (image, split)} if tags is None else {}
    for line, cells in lines:
        if len(cells) != len(columns):
            message = f"{len(cells)} columns instead of {len(columns)}; several tags are joined by `;`, not by `,`"
            table.problems.append(error("bad-row", table.where(line), message))
        elif not cells[image].strip():
            table.problems.append(error("bad-row", table.where(line), "the line names no image; fill it or remove it"))
        else:
            found = _ones(table, line, cells, classes) if tags is None else split_tags(cells[tags])
            names.update(found or ())
            table.rows += 1
            if split is not None:
                table.splits[cells[split].strip()] += 1
            yield Row(line, cells[image].strip(), found, None if split is None else cells[split].strip())
    table.names = tuple(sorted(names | set(classes.values())))


@lru_cache(maxsize=4096)  # the same tags are one object, however many photographs have them
def split_tags(cell: str) -> tuple[str, ...]:
    """The tags of a cell, joined by ``;``: without surrounding spaces, each once, in order."""
    return tuple(dict.fromkeys(name for name in (piece.strip() for piece in cell.split(";")) if name))


def _numbered(table: Table, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty with their numbers; those that cannot be read become problems."""
    reader = csv.reader(file, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as reason:
            message = f"the line is no CSV ({reason}); close its quotes, and double a quote inside them"
            table.problems.append(error("bad-row", table.where(line), message))
            continue
        if any(REPLACEMENT in cell for cell in cells):
            message = f"the line is not UTF-8 (`{','.join(cells)}`); save the table as UTF-8"
            table.problems.append(error("encoding", table.where(line), message))
        elif any(cell.strip() for cell in cells):
            yield line, cells


def _header_problem(columns: list[str]) -> str | None:
    """What is wrong with the header line, or None."""
    lowered = [name.lower() for name in columns]
    found = f"it has {first_five(f'`{name}`' for name in columns)}" if columns else "the file is empty"
    if "image" not in lowered:
        hint = "; columns are separated by commas" if len(columns) == 1 and set(";\t|") & set(columns[0]) else ""
        rule = "the header is `image,tags`, or `image` and one column a class"
        return f"the column `image` is missing, {found}; {rule}{hint}"
    if len(set(lowered)) != len(columns):
        repeated = [name for name in dict.fromkeys(columns) if lowered.count(name.lower()) > 1]
        return f"a column is named twice: {first_five(repeated)}; name each once"
    if SUGGESTED in lowered and "tags" not in lowered:
        return (
            f"the table holds suggestions, which are never taken for tags; once they are reviewed, name the column "
            f"`{SUGGESTED}` `tags`"
        )
    if not set(lowered) - {"image", "split"}:
        return f"the column `tags` is missing, {found}; add it, or one 0/1 column a class"
    if not all(columns):
        return "a column has no name; name it or remove it"
    return None


def _ones(table: Table, line: int, cells: list[str], classes: dict[int, str]) -> tuple[str, ...] | None:
    """The columns that hold 1; None, and a problem, if one holds neither 0 nor 1."""
    wrong = [
        f"`{name}` = `{cells[place]}`" for place, name in classes.items() if cells[place].strip() not in ("0", "1")
    ]
    if wrong:
        message = f"a class column should hold 0 or 1, here {first_five(wrong)}"
        hint = "; for tags in words, call their column `tags`" if len(classes) == 1 else ""
        table.problems.append(error("bad-value", table.where(line), message + hint))
        return None
    return tuple(name for place, name in classes.items() if cells[place].strip() == "1")


def _split_problem(table: Table, split: str) -> Problem:
    if not table.splits:
        message = f"there is no column `split` to find `{split}` in; add it, or leave data.split out"
    else:
        message = (
            f"no line has the split `{split}`, there are {first_five(table.splits)}{did_you_mean(split, table.splits)}"
        )
    return error("bad-split", table.subject, message)
