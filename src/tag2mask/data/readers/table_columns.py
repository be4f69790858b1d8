"""Columns of a tags table: images, tags or classes, split, and ignored columns."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress

from tag2mask.core.errors import first_five
from tag2mask.data.classes import did_you_mean, folded_name, nearest_name
from tag2mask.data.file_names import nfc
from tag2mask.data.problems import Problem, ProblemKind, error
from tag2mask.data.readers.table_cells import ONES, TagColumn

SUGGESTED = "suggested"  # the column of suggested tags that are not reviewed

IMAGE_NAMES = frozenset({"filename", "file", "path", "filepath", "imagepath", "img"})
"""Folded names of the image column if there is no ``image``."""

TAG_NAMES = frozenset({"tag", "label", "labels", "class", "classes", "category", "categories", "choice", "choices"})
"""Folded names of the tags column if there is no ``tags``."""

# fmt: off
NOT_CLASSES = IMAGE_NAMES | {
    "sex", "gender", "age", "id", "index", "imageid", "patient", "patientid", "subject", "subjectid", "study",
    "studyid", "istrain", "istest", "isval", "isvalid", "isvalidation", "valid", "val", "validation", "test", "fold",
    "folds", "width", "height", "labeled", "labelled", "reviewed", "verified", "date", "year", "site",
}
"""Folded names of columns that are not classes although they may hold 0 and 1; ours."""
# fmt: on

_INDEX = re.compile(r"(Unnamed: \d+)?", re.IGNORECASE)  # the index column of pandas
_WHOLE = re.compile(r"[0-9]{1,18}")
_NO_TAGS = "the column `tags` is missing; add it, or one 0/1 column per class"
_MAX_NAMES = 12  # in a suggested command line


@dataclass
class Table:
    """A tags table; complete when all of its lines have been read."""

    subject: str  # the file, for messages
    rows: int = 0  # valid lines
    names: tuple[str, ...] = ()  # all tags of all lines, or all class columns, sorted
    splits: Counter[str] = field(default_factory=Counter)  # lines of each split; empty without a ``split`` column
    notes: list[str] = field(default_factory=list)  # how the table was interpreted, a sentence each
    problems: list[Problem] = field(default_factory=list)

    def fail(self, kind: ProblemKind, message: str, line: int | None = None) -> None:
        """Add an error about a line, or about the file."""
        self.problems.append(error(kind, self.subject if line is None else self.where(line), message))

    def where(self, line: int) -> str:
        """The file and the line, for messages."""
        return f"{self.subject} line {line}"


@dataclass
class Columns:
    """The columns of a table, by index from 0."""

    table: Table
    cells: TagColumn
    line: int  # of the header
    image: int = 0
    split: int | None = None
    tags: int | None = None  # None with class columns
    classes: dict[int, str] = field(default_factory=dict)  # the names of class columns
    width: int = 0  # cells in a line; further cells are empty

    def ones(self, cells: Sequence[str]) -> tuple[str, ...] | None:
        """The names of the class columns with 1; None if one has neither 0 nor 1."""
        values = [_one(cells[place]) for place in self.classes]
        return None if None in values else tuple(compress(self.classes.values(), values))


class _Scan:
    """The contents of the columns without a name, and of those that may be classes."""

    def __init__(self, nameless: Sequence[int], classes: Sequence[int]) -> None:
        self.rows = 0
        self.odd: dict[int, tuple[int, str]] = {}  # line and value of the first cell of a column that is not 0 or 1
        self.filled: set[int] = set()
        self.indexed, self._last = True, -1  # whether the first column has ascending integers
        self._nameless, self._classes = nameless, classes

    def add(self, line: int, cells: Sequence[str]) -> None:
        self.rows += 1
        self.filled.update(place for place in self._nameless if place < len(cells) and cells[place].strip())
        for place in self._classes:
            if place < len(cells) and _one(cells[place]) is None:
                self.odd.setdefault(place, (line, cells[place].strip()))
        if self.indexed:
            self.indexed = bool(_WHOLE.fullmatch(cells[0].strip())) and self._last < int(cells[0])
            self._last = int(cells[0]) if self.indexed else -1


def find_columns(
    table: Table,
    header: tuple[int, Sequence[str]],
    lines: Iterable[tuple[int, Sequence[str]]],
    cells: TagColumn,
    listed: Sequence[str] | None,
) -> Columns | None:
    """The columns of a table by its header and all of its lines; None if the lines cannot be read.

    Args:
        table: notes and problems are added to it.
        header: the number of the header line, and its cells.
        lines: the same of all other lines.
        cells: scans the cells of the tags column.
        listed: the class list of the settings, if any.
    """
    names = [nfc(name.strip()) for name in header[1]]
    found = Columns(table, cells, header[0])
    fault = _roles(names, found, listed or ())
    if fault:
        return _unusable(found, fault)
    roles = {found.image, found.split, found.tags}
    others = [place for place in range(len(names)) if place not in roles]
    nameless = [place for place in others if _INDEX.fullmatch(names[place])]
    scan = _Scan(nameless, others)
    words = False  # whether the tags column has cells other than 0 and 1
    for line, row in lines:
        scan.add(line, row)
        if found.tags is not None and found.tags < len(row):
            cells.scan(row[found.tags])
            words = words or _one(row[found.tags]) is None
    ones = [names[place] for place in others if place not in scan.odd and folded_name(names[place]) not in NOT_CLASSES]
    if found.tags is not None and not words and scan.rows and ones and names[found.tags].lower() != "tags":
        others_shown = first_five(f"`{name}`" for name in ones)
        message = f"the column `{names[found.tags]}` holds 0 and 1, and so does {others_shown}"
        return _unusable(found, f"{message}; {_remedy(ones)}, or call it `tags` if it holds them")
    dropped = {place for place in nameless if scan.rows and place not in scan.filled}
    if scan.rows and scan.indexed and 0 in nameless and 0 in scan.filled:
        dropped.add(0)
        table.notes.append(f"the first column{f' `{names[0]}`' * bool(names[0])} numbers the lines and is passed over")
    if any(not names[place] for place in others if place not in dropped):
        return _unusable(found, "a column has no name; name it or remove it")
    found.width = 1 + max(place for place in range(len(names)) if place not in dropped)
    if found.tags is not None:
        table.problems += cells.finish_scan(table.subject)
        return found
    return _classes({place: names[place] for place in others if place not in dropped}, found, scan, listed)


def _unusable(found: Columns, message: str) -> Columns | None:
    """Add an error about the header; returns None."""
    found.table.fail("bad-table", message, found.line)
    return None


def _roles(names: Sequence[str], found: Columns, listed: Container[str]) -> str | None:
    """Find the columns of images, tags and split; returns an error message if that is impossible."""
    lowered = [name.lower() for name in names]
    shown = f"it has {first_five(f'`{name}`' for name in names)}" if names else "the file is empty"
    repeated = [name for name in dict.fromkeys(names) if name and lowered.count(name.lower()) > 1]
    places: dict[str, list[int]] = {}
    for exact, alike in (("image", IMAGE_NAMES), ("tags", TAG_NAMES)):
        near = [place for place, name in enumerate(names) if folded_name(name) in alike and name not in listed]
        places[exact] = [lowered.index(exact)] if exact in lowered else near
    if not places["image"]:
        other = names and set(";\t|") & set(names[0])
        hint = "; columns are separated by commas, or by `;` or tabs in a header without commas" if other else ""
        rule = "the header is `image,tags`, or `image` and one 0/1 column per class"
        return f"the column `image` is missing, {shown}; {rule}{hint}"
    if repeated:
        return f"a column is named twice: {first_five(repeated)}; name each once"
    if SUGGESTED in lowered and "tags" not in lowered:
        return (
            "the table holds suggestions, which are never taken for tags; once they are reviewed, name the column "
            f"`{SUGGESTED}` `tags`"
        )
    for exact, choices in places.items():
        if len(choices) > 1:
            candidates = first_five(f"`{names[place]}`" for place in choices)
            return f"several columns may be `{exact}`: {candidates}; name one of them `{exact}`"
        what = "names the images" if exact == "image" else "holds the tags"
        found.table.notes += [f"column `{names[place]}` {what}" for place in choices if lowered[place] != exact]
    alias = places["tags"] and lowered[places["tags"][0]] != "tags"
    if alias and any(name in listed for place, name in enumerate(names) if place not in places["image"]):
        places["tags"] = []  # the class list names 0/1 columns
    found.image = places["image"][0]
    found.tags = next(iter(places["tags"]), None)
    found.split = lowered.index("split") if "split" in lowered else None
    if set(lowered) <= {lowered[found.image], "split", ""}:
        return _NO_TAGS
    return None


def _classes(columns: dict[int, str], found: Columns, scan: _Scan, listed: Sequence[str] | None) -> Columns | None:
    """Find the class columns, if there is no tags column."""
    if listed is None:
        none = [name for name in columns.values() if found.cells.means_no_class(name)]
        found.classes = {place: name for place, name in columns.items() if name not in none}
        plain = [name for name in found.classes.values() if folded_name(name) in NOT_CLASSES or _INDEX.fullmatch(name)]
        if plain:
            sound = [name for place, name in found.classes.items() if name not in plain and place not in scan.odd]
            message = f"these columns are not classes: {first_five(f'`{name}`' for name in plain)}"
            return _unusable(found, f"{message}; {_remedy(sound)}")
        if not found.classes:
            return _unusable(found, _NO_TAGS)
        passed, why = none, "mean that an image holds none of the classes"
    else:
        found.classes = {place: name for place, name in columns.items() if name in listed}
        passed, why = [name for name in columns.values() if name not in listed], "are not in data.classes"
        lacking = [name for name in listed if name not in found.classes.values()]
        binary = [name for place, name in columns.items() if name in passed and place not in scan.odd]
        near = next((name for name in binary if nearest_name(name, lacking)), None)
        if near is not None:
            message = f"the column `{near}` is not in data.classes, and a class there has no column"
            remedy = f"{did_you_mean(near, lacking)} Rename the column, or remove it"
            return _unusable(found, message + remedy)
        if not found.classes:
            message = f"no column is one of data.classes ({first_five(listed)}), it has {first_five(passed)}"
            return _unusable(found, f"{message}; correct either")
    table = found.table
    if passed:
        table.notes.append(f"columns that {why} are passed over: {first_five(f'`{name}`' for name in passed)}")
    table.problems += found.cells.unused_negatives(columns.values())
    sound = [name for place, name in found.classes.items() if place not in scan.odd]
    for place, (line, value) in scan.odd.items():
        if place in found.classes:
            message = f"a class column should hold 0 or 1, here `{found.classes[place]}` = `{value}`"
            words = "for tags in words, call their column `tags`; " if len(found.classes) == 1 else ""
            remedy = _remedy(sound) if listed is None else "correct the column, or leave it out of data.classes"
            table.fail("bad-value", f"{message}; {words}{remedy}", line)
    return found


def _remedy(sound: Sequence[str]) -> str:
    """How to exclude columns; ``sound`` are those that may be classes."""
    short = 0 < len(sound) <= _MAX_NAMES and not any("," in name for name in sound)
    names = ",".join(sound) if short else "NAMES"
    return f"name the class columns, as `--data.classes {names}`, or remove the others"


def _one(cell: str) -> bool | None:
    return ONES[cell] if cell in ONES else ONES.get(cell.strip().lower())
