"""Annotation files in COCO's format, read completely; deviations with one meaning are accepted and noted once."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tag2mask.core.errors import first_five
from tag2mask.data.classes import BACKGROUND_NAMES
from tag2mask.data.file_names import nfc
from tag2mask.data.images import image_size
from tag2mask.data.problems import ImageError, Problem, ProblemKind, error, errors_of, one_line, warning
from tag2mask.data.readers.coco_rle import Size, as_polygons, is_empty, is_normalised, segmentation_fault
from tag2mask.data.readers.image_paths import ImageLocator, name_fault

LONGEST_SIDE = 65_535  # pixels; the limit of JPEG, and of squares that run lengths can count

REQUIRED: dict[str, dict[str, type]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
}
"""The lists of an annotation file, and the fields of their items. Those in `OPTIONAL` may be missing."""

OPTIONAL = {("images", "height"), ("images", "width"), ("annotations", "id")}
"""Missing sizes are read from the images, missing annotation ids are replaced by positions."""

CROWDS = {"0": False, "1": True, "none": False, "false": False, "true": True, "0.0": False, "1.0": True}
"""Values of `iscrowd` as lower-case text, which some tools write."""

KIND_NAMES = {int: "a whole number", str: "text"}

_NUMBER = re.compile(r"-?[0-9]{1,19}(\.0+)?")


class ImageRecord(NamedTuple):
    """An image in an annotation file."""

    name: str
    size: Size


class Annotation(NamedTuple):
    """One object, or a crowd of objects."""

    number: int
    category: int
    crowd: bool
    segmentation: Any  # as pycocotools takes it


@dataclass
class AnnotationFile:
    """An annotation file."""

    subject: str  # the file, for messages
    digest: str = ""  # SHA-256
    categories: dict[int, str] = field(default_factory=dict)  # names by official id, ascending
    images: dict[int, ImageRecord] = field(default_factory=dict)  # by image id, in the order of the file
    annotations: dict[int, list[Annotation]] = field(default_factory=dict)  # by image id, in the order of the file
    measured: bool = False  # whether a missing size was read from an image
    deviations: dict[str, tuple[int, str]] = field(default_factory=dict)  # count and first place, by kind
    problems: list[Problem] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether there are no errors."""
        return not errors_of(self.problems)

    def fail(self, where: str, message: str, kind: ProblemKind = "bad-annotation") -> None:
        """Add an error."""
        self.problems.append(error(kind, where, message))

    def note(self, kind: str, where: str) -> None:
        """Count a deviation."""
        count, first = self.deviations.get(kind, (0, where))
        self.deviations[kind] = count + 1, first

    def notes(self) -> list[str]:
        """The deviations, a line per kind."""
        found = self.deviations.items()
        return [one_line(f"{self.subject}: {kind} ({count:,}, first: {first})") for kind, (count, first) in found]


def read_annotations(path: Path, subject: str) -> AnnotationFile:
    """Read an annotation file and collect its problems, which show the file as ``subject``."""
    found = AnnotationFile(subject)
    try:
        content = path.read_bytes()
        found.digest = hashlib.sha256(content).hexdigest()
        document = json.loads(content)
    except (OSError, ValueError, RecursionError) as reason:
        found.fail(subject, f"the annotations could not be read as JSON ({reason}); download or export the file again")
        return found
    lacking = [key for key in REQUIRED if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if lacking:
        names = first_five(f"`{key}`" for key in lacking)
        found.fail(subject, f"the list {names} is missing; download or export the file again")
        return found
    _read_categories(document, found)
    _read_images(document, ImageLocator(path), found)
    _read_annotations(document, found)
    used = {each.category for annotations in found.annotations.values() for each in annotations}
    for number, name in list(found.categories.items()):
        if name.casefold() in BACKGROUND_NAMES and number not in used:
            del found.categories[number]
            found.note("categories without annotations that stand for the background are left out", f"`{name}`")
    return found


def _valid(document: dict[str, Any], key: str, found: AnnotationFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """The items of a list with valid required fields, and their places; the others become problems."""
    for place, item in enumerate(document[key], 1):
        where = f"{found.subject} {key} item {place}"
        wrong = [name for name, kind in REQUIRED[key].items() if not _has(item, name, kind, key, found, place)]
        if wrong:
            needed = ", ".join(f"`{name}` ({KIND_NAMES[kind]})" for name, kind in REQUIRED[key].items())
            names = first_five(f"`{name}`" for name in wrong)
            found.fail(where, f"{names} is missing or of another kind; it needs {needed}")
        else:
            yield where, item


def _has(item: object, name: str, kind: type, key: str, found: AnnotationFile, place: int) -> bool:
    """Whether an item has a value of a kind, or may lack it; numbers in other notations are converted in place."""
    if not isinstance(item, dict):
        return False
    value = item.get(name)
    if value is None and (key, name) in OPTIONAL:
        if name == "id":
            item["id"] = place
            found.note("annotations without `id` are numbered by their places", f"{key} item {place}")
        return True
    if kind is int and type(value) is not int:
        value = _whole(value, text=name not in ("height", "width"))
        if value is not None:
            item[name] = value
            found.note("numbers with a decimal point or as text are read as whole ones", f"{key} item {place} `{name}`")
    return type(value) is kind and (not isinstance(value, int) or -(2**63) <= value < 2**63)


def _whole(value: object, *, text: bool) -> int | None:
    """The whole number in a float, or in a text; None if there is none."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= 2**53 else None
    if text and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return int(value.partition(".")[0])
    return None


def _read_categories(document: dict[str, Any], found: AnnotationFile) -> None:
    names: dict[int, str] = {}
    for where, item in _valid(document, "categories", found):
        number, name = item["id"], nfc(item["name"].strip())
        if number in names or name in names.values():
            twice = f"the id {number}" if number in names else f"the name `{name}`"
            found.fail(where, f"two categories have {twice}; each should have its own id and name", "bad-classes")
        elif not name or not name.isprintable():
            found.fail(where, f"the category {number} has no name that can be shown; name it", "bad-classes")
        else:
            names[number] = name
    found.categories = dict(sorted(names.items()))


def _read_images(document: dict[str, Any], locator: ImageLocator, found: AnnotationFile) -> None:
    listed: set[str] = set()
    for where, item in _valid(document, "images", found):
        number, name = item["id"], item["file_name"]
        if (fault := name_fault(name)) is not None:
            rule = "may lie outside the root; it should be the plain name of a file, or its path below the root"
            found.fail(where, f"file_name `{name}` {fault or rule}", "bad-annotation" if fault else "outside-root")
        elif number in found.images or name in listed:
            twice = f"the id {number}" if number in found.images else name
            found.fail(where, f"{twice} is listed twice; remove one of the items", "duplicate-id")
        elif isinstance(size := _size(item, locator, found), str):
            found.fail(where, f"{name} {size}")
        else:
            found.images[number] = ImageRecord(name, size)
            listed.add(name)


def _size(item: dict[str, Any], locator: ImageLocator, found: AnnotationFile) -> Size | str:
    """(H, W) of an image, from its file if the item lacks it; or the fault."""
    size: Any = item.get("height"), item.get("width")
    if None in size:
        location, reason = locator.find(item["file_name"]), "it does not exist"
        try:
            if location.exists:
                size, reason = image_size(Path(location.path)), ""
        except ImageError as fault:
            reason = fault.reason
        if reason:
            return f"has no `height` and `width`, and its file does not say them ({reason}); add them, or the file"
        found.measured = True
        found.note("images without `height` and `width` are measured", item["file_name"])
    if not all(1 <= side <= LONGEST_SIDE for side in size):
        return f"is said to be {size[1]} × {size[0]} pixels; a side should have 1 to {LONGEST_SIDE:,}"
    return size[0], size[1]


def _read_annotations(document: dict[str, Any], found: AnnotationFile) -> None:
    empty: list[int] = []
    small: list[int] = []
    polygons = 0
    # Problems of categories and images are not repeated for their annotations.
    complete = len(found.categories) == len(document["categories"]) and len(found.images) == len(document["images"])
    for where, item in _valid(document, "annotations", found):
        named, crowd = f"annotation {item['id']}", CROWDS.get(str(item.get("iscrowd")).lower())
        if crowd is None:
            found.fail(where, f"{named}: `iscrowd` should be 0 or 1, it is {item['iscrowd']!r}; correct it")
            continue
        image = found.images.get(item["image_id"])
        if image is None or item["category_id"] not in found.categories:
            key, number = ("images", item["image_id"]) if image is None else ("categories", item["category_id"])
            rule = f"which the list `{key}` does not hold; add it, or remove the annotation"
            if complete:
                found.fail(where, f"{named} is of {number}, {rule}")
            continue
        segmentation, written = as_polygons(item.get("segmentation"))
        if fault := segmentation_fault(segmentation, image.size):
            found.fail(where, f"{named} of {image.name}: {fault}; correct or remove it")
        else:
            if written:
                found.note(written, named)
            if is_empty(segmentation):
                empty.append(item["id"])
            polygons += isinstance(segmentation, list) and bool(segmentation)
            if is_normalised(segmentation):
                small.append(item["id"])
        instance = Annotation(item["id"], item["category_id"], crowd, segmentation)
        found.annotations.setdefault(item["image_id"], []).append(instance)
    if empty:
        message = f"annotations with an empty segmentation, or a polygon of fewer than 3 points ({len(empty)})"
        rule = "they count as tags, and nothing is rasterised of such a part"
        found.problems.append(warning("bad-annotation", found.subject, f"{message}: {first_five(empty)}; {rule}"))
    if small:
        message = f"annotations whose polygons lie in the first pixel, with coordinates from 0 to 1 ({len(small)})"
        rule = "coordinates are pixels; multiply shares of the image by its width and height"
        level = error if 2 * len(small) > polygons else warning
        found.problems.append(level("bad-annotation", found.subject, f"{message}: {first_five(small)}; {rule}"))
