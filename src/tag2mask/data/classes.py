"""Class lists and tag names."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import read_json, read_yaml, write_json
from tag2mask.data.file_names import nfc
from tag2mask.data.problems import Problem, error, warning

CLASS_LIMIT = 254  # ids 1..254; 0 is background, 255 ignored

RARE_FRACTION = 0.05
"""A tag is rare relative to another if its count is at most this share of the other's, or 1; ours."""

SIMILARITY = 0.75  # minimum `difflib` ratio of similar names; ours: ``hosre`` and ``horse`` have 0.8

LIST_SUFFIXES = frozenset({".txt", ".yaml", ".yml", ".json"})
NONE = "_none"  # the folder or tag of images without any of the classes

NEGATIVE_NAMES = frozenset(
    {"good", "ok", "okay", "normal", "healthy", "none", "nodefect", "nodefects", "defectfree", "nondefective", "clean"}
    | {"negative", "negatives", "neg", "empty", "nothing", "nofinding", "nofindings", "intact", "undamaged"}
    | {"io", "gut", "faultfree", "pass", "passed", "background", "no", "null", "noobject"}
)
"""Folded names that usually mean "none of the classes"; ours."""

BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__"})


CLASS_IDS = "classes.json"
"""The file with the class ids of the masks in a folder."""


def write_class_ids(folder: Path, classes: Sequence[str]) -> None:
    """Write `CLASS_IDS`, ``{"background": 0, "classes": {name: id}, "ignored": 255}``, unless it is there already."""
    ids = {"background": 0, "classes": {name: number for number, name in enumerate(classes, 1)}, "ignored": 255}
    path = folder / CLASS_IDS
    with suppress(Tag2maskError):  # a damaged one is written again
        if path.is_file() and read_json(path) == ids:
            return
    write_json(path, ids)


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """The most similar of ``names``; None if none is similar."""
    by_folded = {folded_name(known): known for known in names}
    near = difflib.get_close_matches(folded_name(name), by_folded, n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean `horse`?"``, or an empty text if no name is similar."""
    near = nearest_name(name, names)
    return f"; did you mean `{near}`?" if near else ""


def folded_name(name: str) -> str:
    """A name in lower case without spaces, hyphens and underscores."""
    return "".join(letter for letter in name.casefold() if letter not in " -_")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their ids: sorted, by value if all are numbers."""
    distinct = set(names)
    return tuple(sorted(distinct, key=int if all(name.isdecimal() for name in distinct) else None))


def is_negative(name: str, setting: str | None) -> bool:
    """Whether a class folder means "none of the classes"; `setting` (`data.negatives`) is compared by folded names."""
    return name == NONE or folded_name(name) in {folded_name(each) for each in negative_names(setting) - {NONE}}


def negative_names(setting: str | None) -> frozenset[str]:
    """The names that mean "none of the classes", in NFC: `NONE` and the comma-separated `data.negatives`."""
    return frozenset({NONE, *(nfc(name.strip()) for name in (setting or "").split(",") if name.strip())})


def negative_problems(names: Iterable[str], subject: str) -> Iterator[Problem]:
    """A warning about class names that usually mean "none of the classes"."""
    found = [name for name in names if folded_name(name) in NEGATIVE_NAMES]
    if found:
        joined = ",".join(found)
        message = f"{first_five(f'`{name}`' for name in found)} is read as a class, and its masks will fill the images"
        remedy = f"if it means that nothing is there, --data.negatives {joined} makes these images without tags"
        yield warning("negative-name", subject, f"{message}; {remedy}")


def read_classes(value: str) -> tuple[tuple[str, ...] | None, list[Problem]]:
    """The class list of `data.classes`, None if it cannot be read, and its problems.

    ``value`` is a file (``.yaml``, ``.yml`` or ``.json``: a list; any other: one name per line, empty lines and lines
    that begin with ``#`` skipped), or comma-separated names. A comma at the end says that a single name is not a file.
    """
    path = Path(value)
    is_file = _is_file(path)
    if is_file or ("," not in value and (path.suffix in LIST_SUFFIXES or len(path.parts) > 1)):
        try:
            names = _names_in(path)
        except (OSError, ValueError, yaml.YAMLError) as reason:
            message = f"the class list could not be read ({' '.join(str(reason).split())})"
            remedy = "it should have one name per line, or be a YAML list of names, as UTF-8"
            return None, [error("bad-classes", str(path), f"{message}; {remedy}")]
    else:
        names = [name.strip() for name in value.removesuffix(",").split(",")]
    names = [nfc(name) for name in names]
    subject = str(path) if is_file else "data.classes"
    return tuple(names), list(_list_problems(subject, names))


def require_classes_in(value: str) -> tuple[str, ...]:
    """The class list of `data.classes`, as `read_classes` reads it.

    Raises:
        UsageError: it cannot be read, or has problems.
    """
    names, problems = read_classes(value)
    problems += class_problems(names or (), "data.classes")
    if names is None or problems:
        raise UsageError("; ".join(map(str, problems)))
    return names


def class_problems(classes: tuple[str, ...], subject: str, *, negatives: bool = False) -> Iterator[Problem]:
    """Problems of the final class list of a data set.

    Args:
        classes: the names.
        subject: their source.
        negatives: whether `data.negatives` affects the data set.
    """
    if len(classes) > CLASS_LIMIT:
        message = f"{len(classes)} classes ({first_five(classes)}), at most {CLASS_LIMIT} fit into a mask of 8 bits"
        yield error("bad-classes", subject, f"{message}; merge or drop some")
    listed = [name for name in classes if name.casefold() in BACKGROUND_NAMES]
    if listed:
        message = f"`{listed[0]}` is not a class: background has id 0 by itself and is not listed; remove it"
        if negatives:
            message += f", or say with --data.negatives {listed[0]} that its images hold none of the classes"
        yield error("bad-classes", subject, message)


def similar_names(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Pairs of tags that are probably one, as (rarer, more frequent); ``counts`` are images with each tag.

    They have one folded name; or one is rare and they are spelt similarly. Source: ours.
    """
    frequent = sorted(counts, key=lambda name: (-counts[name], name))
    for place, name in enumerate(frequent):
        for other in frequent[:place]:
            same = folded_name(name) == folded_name(other)
            rare = counts[name] <= max(1, RARE_FRACTION * counts[other]) and counts[name] < counts[other]
            if same or (rare and _ratio_reaches(name, other)):
                yield name, other
                break


def _ratio_reaches(name: str, other: str) -> bool:
    matcher = difflib.SequenceMatcher(None, folded_name(name), folded_name(other))
    # The first two ratios are cheap upper bounds.
    return all(ratio() >= SIMILARITY for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of many names is too long for a path
        return False


def _names_in(path: Path) -> list[str]:
    if path.exists() and not path.is_file():  # reading a device or a pipe may never end
        raise ValueError("it is not a file")
    if path.suffix not in {".yaml", ".yml", ".json"}:
        lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
        return [line for line in lines if line and not line.startswith("#")]
    loaded = read_yaml(path, as_text=True)
    if not isinstance(loaded, list) or not all(isinstance(name, str) for name in loaded):
        raise ValueError("it is not a list of names")
    return [name.strip() for name in loaded]


def _list_problems(subject: str, names: list[str]) -> Iterator[Problem]:
    if not any(names):
        yield error("bad-classes", subject, "the class list is empty; name at least one class")
    elif not all(names):
        yield error("bad-classes", subject, "a class has no name; remove the empty one")
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        yield error("bad-classes", subject, f"named twice: {first_five(repeated)}; a class is listed once")
    joined = [name for name in names if ";" in name]
    if joined:
        yield error("bad-classes", subject, f"`;` joins tags and cannot be in a name: {first_five(joined)}")
