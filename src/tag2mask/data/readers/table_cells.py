"""Cells of a tags table: separators of tags, words for no tags, and values of 0/1 columns."""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

from tag2mask.core.errors import first_five
from tag2mask.data.classes import did_you_mean, folded_name, negative_names
from tag2mask.data.file_names import nfc
from tag2mask.data.problems import Problem, error, one_line, warning

_TAGS = frozenset({"Na", "Nil", "nA"})  # tags whose folded names are in `NOTHING`

NOTHING = frozenset(
    {"none", "nan", "null", "n/a", "#n/a", "na", "<na>", "nil", "", "–", "—", "nothing", "nofinding", "nofindings"}
)
"""Folded cells that mean "no tags"; a hyphen folds to an empty text. Ours: what pandas and spreadsheets write."""

ONES = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
"""Cells of class columns, in lower case."""

MAX_DISTINCT = 100_000  # distinct cells, and distinct tags, that the first pass stores

_NUMBER, _ZERO = re.compile(r"\d+(\.0+)?"), re.compile(r"0(\.0+)?")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PYTHON_LIST = re.compile(rf"\[\s*{_QUOTED}(?:\s*,\s*{_QUOTED})*\s*,?\s*\]", re.DOTALL)

_SHOWN = 100  # characters of a cell
_LISTS, _BLANKS = "lists", "blanks"
_NOTES = {_LISTS: "written as lists", _BLANKS: "joined by blanks where each word is a tag by itself"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the tags column."""

    tags: tuple[str, ...] | None  # None: invalid
    separators: tuple[str, ...] = ()  # other than ``;``: ``,``, ``|``, blanks or lists
    nothing: str = ""  # the word for no tags, if any
    fault: str = ""  # the fault and its remedy; empty for a valid cell, and for an ambiguous `0`


class TagColumn:
    """Interprets the cells of a tags column: `scan` all of them, call `finish_scan`, then `read` each.

    The meaning of a blank in a cell depends on the tags in all other cells.
    """

    def __init__(self, classes: Collection[str], negatives: str | None) -> None:
        """``classes`` are the names that tags must be in, if there is such a list."""
        self.classes = frozenset(classes)
        self.read: Callable[[str], Cell] = lru_cache(maxsize=4096)(self._read)  # equal tags share an object
        self._negatives = negative_names(negatives)
        listed = {folded_name(name) for name in classes}
        self._nothing = (NOTHING | {folded_name(name) for name in self._negatives}) - listed
        self._longest = max((len(re.findall("[,|]", name)) for name in classes), default=0)
        self._has_numbers = self._has_semicolons = False
        self._zero_is_class = any(_ZERO.fullmatch(name) for name in classes)
        self._seen: set[str] = set()
        self._single: set[str] = set()  # tags that are alone in a cell
        self._joined: set[str] = set()  # tags in a cell with others
        self._words: Counter[str] = Counter()  # images without tags by the word for that
        self._examples: dict[str, tuple[str, ...]] = {}  # the first tags of each separator
        self._zero_said = False

    def means_no_class(self, name: str) -> bool:
        """Whether the name of a tag or a column, other than `0`, means none of the classes."""
        return folded_name(name) in self._nothing and name not in _TAGS

    def scan(self, text: str) -> None:
        """Register a cell in the first pass."""
        if text in self._seen:
            return
        if len(self._seen) == MAX_DISTINCT:
            self._seen.clear()
        self._seen.add(text)
        names, separators, _ = self._parse(text)
        self._has_semicolons |= separators == (";",)
        found = self._single if len(names) == 1 and not separators else self._joined
        if len(found) < MAX_DISTINCT:
            found.update(names)
        self._has_numbers |= any(_NUMBER.fullmatch(name) and not _ZERO.fullmatch(name) for name in names)

    def finish_scan(self, subject: str) -> Iterator[Problem]:
        """A warning about tags of several words that may be several tags; called once, after all cells."""
        self._seen.clear()
        tags = {name for name in self._single | self._joined if not self._is_nothing(name)}
        self._single = {name for name in tags if not re.search(r"\s", name)}
        if self.classes:
            return
        words = {name: {word for word in re.split(r"[\s,|]+", name.casefold()) if word} for name in tags}
        counts = Counter(word for own in words.values() for word in own)
        doubtful = sorted(
            name
            for name, own in words.items()
            if len(own) > 1 and any(counts[word] > 1 for word in own) and not self._split_at_blanks(name)
        )
        if doubtful:
            named = first_five(f"`{name}`" for name in doubtful)
            message = f"each of these is read as one tag, though a word of it is in other tags, too ({len(doubtful)})"
            remedy = "if a blank joins tags there, write `;`; if not, list the names in data.classes"
            yield warning("similar-tags", subject, f"{message}: {named}; {remedy}")

    def count(self, cell: Cell, where: str) -> Problem | None:
        """Count a cell for the notes; returns its problem, if any. An ambiguous `0` is reported once."""
        for separator in cell.separators:
            self._examples.setdefault(separator, cell.tags or ())
        if cell.nothing:
            self._words[cell.nothing] += 1
        if cell.tags is not None or (not cell.fault and self._zero_said):
            return None
        self._zero_said |= not cell.fault
        zero = "tags are numbers, so `0` may be a class or nothing; name the classes with data.classes, or write `none`"
        return error("bad-value", where, cell.fault or zero)

    def notes(self) -> Iterator[str]:
        """How the cells were interpreted, a sentence each."""
        for separator, tags in self._examples.items():
            how = _NOTES.get(separator, f"joined by `{separator}`")
            remedy = "" if separator in _NOTES else "; a name that holds one is listed in data.classes"
            yield one_line(f"tags are {how} (first: {first_five(f'`{name}`' for name in tags)}){remedy}")
        for word, count in self._words.items():
            images = "1 image is" if count == 1 else f"{count} images are"
            yield one_line(f"{images} tagged `{word}`: read as images that hold none of the classes")

    def unused_negatives(self, names: Collection[str]) -> Iterator[Problem]:
        """Errors for names of ``data.negatives`` without images; ``names`` are all tags, or all columns."""
        used = {folded_name(word) for word in (*self._words, *names)}
        for name in sorted(self._negatives - negative_names(None)):
            if folded_name(name) not in used:
                hint = did_you_mean(name, names)
                yield error("bad-classes", "data.negatives", f"no image is tagged `{name}`{hint}")

    def _is_nothing(self, name: str) -> bool:
        if _ZERO.fullmatch(name):
            return not self._zero_is_class and (bool(self.classes) or not self._has_numbers)
        return self.means_no_class(name)

    def _read(self, text: str) -> Cell:
        names, separators, fault = self._parse(text)
        if fault:
            return Cell(None, fault=fault)
        if len(names) == 1 and not separators:
            words = self._split_at_blanks(names[0])
            names, separators = (words, (_BLANKS,)) if words else (names, separators)
        if any(_ZERO.fullmatch(name) for name in names) and self._has_numbers and not self.classes:
            return Cell(None)
        nothing = [name for name in names if self._is_nothing(name)]
        if nothing and len(nothing) < len(names):
            fault = f"`{_short(text)}` holds a tag and `{nothing[0]}`, which says that there is none"
            return Cell(None, fault=f"{fault}; remove one, or list `{nothing[0]}` in data.classes if it is a class")
        if nothing or (separators == (_LISTS,) and not names):
            return Cell((), nothing=nothing[0] if nothing else text.strip())
        shown = () if separators == (";",) or (len(names) < 2 and separators != (_LISTS,)) else separators
        return Cell(names, shown)

    def _split_at_blanks(self, name: str) -> tuple[str, ...]:
        """The tags in a cell that are separated by blanks; empty if that is uncertain."""
        words = tuple(dict.fromkeys(name.split()))
        if len(words) < 2 or name in self.classes or name in self._joined or self._is_nothing(name):
            return ()
        if self._has_semicolons and not self.classes:
            return ()
        known = self.classes or self._single
        return words if all(word in known for word in words) else ()

    def _parse(self, text: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        """The distinct names in a cell, their separators, and the fault."""
        cell = nfc(text.strip())
        separators: tuple[str, ...] = ()
        found: list[str] | None
        if cell in self.classes:
            found = [cell]
        elif cell.startswith(("[", "{")):
            found, separators = _list_of(cell), (_LISTS,)
            if found is None:
                rule = 'a list holds quoted names alone, as `["cat", "dog"]`; write that, or `cat;dog`'
                return (), (), f"`{_short(text)}` begins like a list and is not one of names: {rule}"
        elif ";" in cell:
            found, separators = cell.split(";"), (";",)
        elif self._has_semicolons and not self.classes:  # a table joins its tags in one way
            found = [cell]
        else:
            found, separators = self._split(cell)
        names = (nfc(name.strip()) for name in found)
        return tuple(dict.fromkeys(name for name in names if name)), separators, ""

    def _split(self, cell: str) -> tuple[list[str], tuple[str, ...]]:
        """The parts between ``,`` and ``|``, and the separators; names of classes that contain one are not split."""
        parts = re.split("([,|])", cell)  # parts at even indices, separators at odd ones
        pieces: list[str] = []
        separators: dict[str, None] = {}
        start = 0
        while start < len(parts):
            ends = range(min(len(parts), start + 2 * self._longest + 1), start, -2)
            end = next((end for end in ends if "".join(parts[start:end]).strip() in self.classes), start + 1)
            pieces.append("".join(parts[start:end]))
            separators |= dict.fromkeys(parts[end : end + 1])
            start = end + 1
        return pieces, tuple(separators)


def _short(text: str) -> str:
    return text.strip() if len(text) <= _SHOWN else f"{text.strip()[:_SHOWN]}…"


def _list_of(cell: str) -> list[str] | None:
    """The names in a JSON list, a Python list, or the choices of a labelling tool; None otherwise."""
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        try:  # only for a flat list of quoted names, without nesting
            found = ast.literal_eval(cell) if _PYTHON_LIST.fullmatch(cell) else None
        except (ValueError, SyntaxError):  # a broken escape
            return None
    if isinstance(found, dict):
        found = found.get("choices") if len(found) == 1 else None if found else []
    sound = isinstance(found, list) and all(isinstance(name, str) and ";" not in name for name in found)
    return found if sound else None
