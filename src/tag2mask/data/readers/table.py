"""The tags table: CSV ``image,tags`` with tags joined by ``;``, or ``image`` and one 0/1 column per class.

In VOC and COCO roots it may also be a list ``IMAGE ID ID …``.
"""

import csv
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tag2mask.data.classes import in_order, read_classes
from tag2mask.data.file_names import id_of_name, inside, nfc, on_disk
from tag2mask.data.problems import Problem, error
from tag2mask.data.readers.entries import Entry
from tag2mask.data.readers.image_paths import TablePaths, known_id
from tag2mask.data.readers.scan import Listing, mask_locations, split_error
from tag2mask.data.readers.table_cells import TagColumn
from tag2mask.data.readers.table_columns import Columns, Table, find_columns
from tag2mask.data.settings import DataSettings

TABLE_NAME = "tags.csv"  # the default table in a root
LIST_SUFFIX = ".txt"  # of a list of class ids

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_BLOCK = 1 << 20  # bytes
_SEPARATOR_LINE = re.compile(r"""["']?sep=([,;|\t])["']?""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a tags table."""

    line: int  # from 1
    image: str
    tags: tuple[str, ...] | None  # None: unreadable
    split: str | None


class TableTags:
    """The tags in a table by ID; the problems are added to the listing."""

    def __init__(
        self, path: Path, settings: DataSettings, listing: Listing, known: Container[str], *folders: str
    ) -> None:
        """Read a table; ``known`` and ``folders`` are those of `known_id`."""
        self.listing = listing
        self.table = table = Table(listing.shown(path))
        self._form = " ID ID" if path.suffix == LIST_SUFFIX else ",TAGS"  # of a line, after the image
        self.lines: dict[str, int] = {}  # the line of each ID
        self._tags: dict[str, tuple[str, ...] | None] = {}
        for row in read_table(path, table, settings, listing.names):
            own = known_id(row.image, known, *folders)
            if own in self.lines:
                message = f"{own} has two lines, the first is line {self.lines[own]}; join their tags in one"
                table.fail("duplicate-id", message, row.line)
            else:
                self.lines[own], self._tags[own] = row.line, row.tags
        listing.notes += table.notes
        listing.problems += table.problems

    def __call__(self, image_id: str, image: str) -> tuple[str, ...] | None:
        """The tags of an ID; None if its line is invalid or missing, which is reported for the name ``image``."""
        if image_id not in self.lines:
            message = f"{image_id} has no line; add `{image}{self._form}`"
            self.listing.problems.append(error("missing-tags", self.table.subject, message))
            return None
        return self._tags[image_id]


def read_tags(
    path: Path, settings: DataSettings, listing: Listing, known: Container[str], *folders: str
) -> TableTags | None:
    """The tags in a table; None if it has no valid line and a problem, which is sufficient as a report."""
    tags = TableTags(path, settings, listing, known, *folders)
    return tags if tags.lines or not tags.table.problems else None


def read_table(
    path: Path, table: Table, settings: DataSettings | None = None, official: Sequence[str] = ()
) -> Iterator[Row]:
    """The valid lines of a tags table; its description and problems are added to ``table``.

    The file is UTF-8 with or without a byte order mark, columns separated by commas, or by semicolons or tabs if the
    header has no comma. The header names the columns: ``image`` and either ``tags`` or one 0/1 column per class;
    ``split`` is optional; with ``tags``, other columns are ignored. `table_columns` has alternative names,
    `table_cells` the separators of tags. The file is read twice, since a cell's interpretation depends on all cells.

    With ``official`` classes, a file ``.txt`` has no header: its lines are an image and the places of its tags among
    those classes, from 0, separated by blanks. Source: the lists of CLIP-ES for COCO.

    Args:
        path: the file.
        table: filled during the iteration.
        settings: ``classes`` and ``negatives`` are used; None for the defaults.
        official: the class list if the settings have none; empty if tags may be any.
    """
    if path.exists() and not path.is_file():  # reading a device or a pipe may never end
        table.fail("bad-table", "the tags table is not a file; data.tags names a CSV file")
        return
    settings = settings or DataSettings()
    listed = None if settings.classes is None else read_classes(settings.classes)[0]
    cells = TagColumn(official if listed is None else listed, settings.negatives)
    try:
        with path.open("rb") as file:
            has_null = any(b"\0" in block for block in iter(lambda: file.read(_BLOCK), b""))
        if has_null:
            message = "the tags table holds null bytes, as UTF-16 and spreadsheets do; save it as CSV in UTF-8"
            table.fail("encoding", message)
            return
        if official and path.suffix == LIST_SUFFIX:
            with path.open(encoding="utf-8-sig", errors="replace") as lines:
                yield from _list_rows(table, lines, official)
            return
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            columns = _columns(table, lines, cells, listed)
        if columns is not None:
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
                yield from _rows(table, lines, columns)
    except OSError as reason:
        table.fail("bad-table", f"the tags table could not be read ({reason.strerror}); data.tags names a CSV file")


def read_table_images(settings: DataSettings, split: str | None) -> Listing:
    """The images of a tags table with a value of the ``split`` column; None for all lines.

    Without ``settings.tags`` the table is ROOT/tags.csv; without ``settings.root`` the root is the table's folder.
    """
    path = settings.tags or (settings.root or Path()) / TABLE_NAME
    root = settings.root or path.parent
    listing = Listing("table", root, masks=mask_locations(settings.masks))
    table = Table(listing.shown(path), notes=listing.notes, problems=listing.problems)
    paths = TablePaths(root)
    for row in read_table(path, table, settings):
        if split is None or row.split == split:
            below = paths.inside(row.image)
            if below is None:
                message = f"`{row.image}` lies outside the root {root}; move the image there or set data.root"
                table.fail("outside-root", message, row.line)
            else:
                file = on_disk(inside(root, below))
                entry = Entry(id_of_name(below), file, row.tags, table.subject, row.line, row.split or "")
                listing.entries.append(entry)
    listing.names, listing.splits = table.names, dict(table.splits)
    listing.notes += paths.notes()
    if split is not None and split not in table.splits and table.rows:
        if table.splits:
            problem = split_error(table.subject, f"no line has the split `{split}`", split, table.splits)
        else:
            message = f"there is no column `split` to find `{split}` in; add it, or leave data.split out"
            problem = error("bad-split", table.subject, message)
        listing.problems.append(problem)
    return listing


def _list_rows(table: Table, file: Iterable[str], classes: Sequence[str]) -> Iterator[Row]:
    """The lines ``IMAGE ID ID …``, with ids from 0."""
    names = {str(number): name for number, name in enumerate(classes)}
    span = f"from 0 `{classes[0]}` to {len(classes) - 1} `{classes[-1]}`"
    table.notes.append(f"the tags are class ids, {span}")
    for line, text in enumerate(file, 1):
        image, *ids = text.split() or [""]
        wrong = [each for each in ids if each not in names]
        if REPLACEMENT in text:
            table.fail("encoding", f"the line is not UTF-8 (`{text.strip()}`); save the list as UTF-8", line)
        elif image:
            if wrong or not ids:
                fault = f"`{wrong[0]}` is not a class id" if wrong else f"`{image}` has no class id"
                rule = f"a line of a list is `IMAGE ID ID`, with ids {span}; a table with a header has the suffix .csv"
                table.fail("bad-value", f"{fault}; {rule}", line)
            tags = None if wrong or not ids else tuple(dict.fromkeys(names[each] for each in ids))
            yield Row(line, nfc(image), tags, None)


def _columns(table: Table, file: Iterable[str], cells: TagColumn, listed: Sequence[str] | None) -> Columns | None:
    """The first pass; None if the lines cannot be read."""
    faults: list[Problem] = []
    delimiter, lines = _delimited(file)
    numbered = _numbered(lines, delimiter, table.subject, faults)
    header = next(numbered, (1, []))
    if faults:  # lines after an unreadable header cannot be separated
        table.problems += faults
        return None
    if delimiter != ",":
        table.notes.append(f"columns are separated by {'tabs' if delimiter == chr(9) else f'`{delimiter}`'}")
    return find_columns(table, header, numbered, cells, listed)


def _rows(table: Table, file: Iterable[str], columns: Columns) -> Iterator[Row]:
    """The second pass: the valid lines."""
    delimiter, lines = _delimited(file)
    numbered = _numbered(lines, delimiter, table.subject, table.problems)
    next(numbered)
    names: set[str] = set(columns.classes.values())
    image, tags, split, width = columns.image, columns.tags, columns.split, columns.width
    for line, cells in numbered:
        if len(cells) < width or any(cell.strip() for cell in cells[width:]):
            joint = f"{'`,` or `|`' if delimiter == ';' else '`;`'}, not by `{delimiter}`"
            table.fail("bad-row", f"{len(cells)} columns instead of {width}; several tags are joined by {joint}", line)
            continue
        if not cells[image].strip():
            table.fail("bad-row", "the line names no image; fill it or remove it", line)
            continue
        if tags is None:
            found = columns.ones(cells)
        else:
            cell = columns.cells.read(cells[tags])
            fault = columns.cells.count(cell, table.where(line))
            table.problems += [fault] if fault else []
            found = cell.tags
        names.update(found or ())
        table.rows += 1
        own = None if split is None else cells[split].strip()
        if own is not None:
            table.splits[own] += 1
        yield Row(line, nfc(cells[image].strip()), found, own)
    table.names = in_order(names)
    table.notes += columns.cells.notes()
    if tags is not None and table.rows:
        table.problems += columns.cells.unused_negatives(names)


def _delimited(file: Iterable[str]) -> tuple[str, Iterator[str]]:
    """The separator of the columns, and all lines; a line ``sep=;`` is replaced by an empty one."""
    lines = iter(file)
    first: list[str] = []
    for line in lines:
        first.append(line)
        if line.strip():
            break
    header = first[-1] if first else ""
    if declared := _SEPARATOR_LINE.fullmatch(header.rstrip("\r\n")):
        first[-1] = "\n"
        return declared[1], chain(first, lines)
    return next((each for each in ",;\t" if each in header), ","), chain(first, lines)


def _numbered(
    file: Iterable[str], delimiter: str, subject: str, faults: list[Problem]
) -> Iterator[tuple[int, list[str]]]:
    """The non-empty lines with their numbers; unreadable ones become problems."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as reason:
            message = f"the line is not CSV ({reason}); close its quotes, and double a quote inside them"
            faults.append(error("bad-row", f"{subject} line {line}", message))
            continue
        if any(REPLACEMENT in cell for cell in cells):
            message = f"the line is not UTF-8 (`{delimiter.join(cells)}`); save the table as UTF-8"
            faults.append(error("encoding", f"{subject} line {line}", message))
        elif any(cell.strip() for cell in cells):
            yield line, cells
