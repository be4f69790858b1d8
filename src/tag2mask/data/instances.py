"""Annotation files in the format of COCO, instances_SPLIT.json: read whole for painting, and a compact index of each.

The index holds what a listing needs. COCO's own files are hundreds of megabytes of JSON, which take half a minute and
gigabytes of memory.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from os.path import splitext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.data.names import nfc
from tag2mask.data.problems import Problem, error, warning
from tag2mask.data.segmentations import Size, is_void, segmentation_fault
from tag2mask.errors import first_five
from tag2mask.files import atomic_path
from tag2mask.npz import DAMAGED, read_npz

INDEX_VERSION = 2
"""Raised where the index, or what is checked before it is written, changes."""

LONGEST_SIDE = 65_535
"""Pixels; what JPEG can hold, and the most whose square run lengths can count."""

NEEDED: dict[str, dict[str, type]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
}
"""The lists of an annotation file, and what each of their items must have."""

CROWDS = {"0": False, "1": True, "none": False, "false": False, "true": True, "0.0": False, "1.0": True}
"""What `iscrowd` may be, as lower-case text: some tools write it as text."""

KIND_NAMES = {int: "a whole number", str: "text"}


def image_id(name: str) -> str:
    """The official ID: the file's name without its suffix, in NFC."""
    return splitext(nfc(name))[0]  # noqa: PTH122 - of ".jpg", and of "a.", it says what listings of folders say


class Image(NamedTuple):
    """An image that an annotation file lists."""

    name: str
    size: Size

    @property
    def id(self) -> str:
        """The ID of the photograph."""
        return image_id(self.name)


class Instance(NamedTuple):
    """An annotation: one object, or a crowd of them; ``segmentation`` as it stands in the file."""

    number: int
    category: int
    crowd: bool
    segmentation: Any


@dataclass
class Annotations:
    """An annotation file, read whole.

    Attributes:
        subject: the file as it is shown.
        digest: the SHA-256 of its content.
        categories: names by official id, in ascending order of the id.
        images: by image id, in the order of the file.
        instances: of each image that has any, in the order of the file.
        problems: what is wrong with the file; it is usable if none is an error.
    """

    subject: str
    digest: str = ""
    categories: dict[int, str] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    instances: dict[int, list[Instance]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether there is no error."""
        return not any(problem.level == "error" for problem in self.problems)


@dataclass(frozen=True)
class Index:
    """What a listing needs of an annotation file.

    Attributes:
        digest: the SHA-256 of the file.
        classes: the C names in ascending order of the official category id.
        numbers: the image ids, int64 (N,), in the order of the file.
        names: the file names.
        sizes: (height, width) of each image, int32 (N, 2).
        tags: which classes are annotated, crowds too, bool (N, C).
        problems: what is wrong with the file.
    """

    digest: str
    classes: tuple[str, ...]
    numbers: npt.NDArray[np.int64]
    names: tuple[str, ...]
    sizes: npt.NDArray[np.int32]
    tags: npt.NDArray[np.bool_]
    problems: tuple[Problem, ...]


def read_annotations(path: Path, subject: str) -> Annotations:
    """Read an annotation file, collecting what is wrong with it.

    Args:
        path: the file.
        subject: how problems call it.
    """
    found = Annotations(subject)
    remedy = "download or export the file again"
    try:
        content = path.read_bytes()
        found.digest = hashlib.sha256(content).hexdigest()
        document = json.loads(content)
    except (OSError, ValueError, RecursionError) as reason:
        message = f"the annotations could not be read as JSON ({reason}); {remedy}"
        found.problems.append(error("bad-annotation", subject, message))
        return found
    lacking = [key for key in NEEDED if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if lacking:
        message = f"the list {first_five(f'`{key}`' for key in lacking)} is missing; {remedy}"
        found.problems.append(error("bad-annotation", subject, message))
        return found
    _read_categories(document, found)
    _read_images(document, found)
    _read_instances(document, found)
    return found


def read_index(path: Path, subject: str, folder: Path) -> tuple[Index, OSError | None]:
    """The index of an annotation file: from ``folder`` where it is up to date, else made and put there.

    It is up to date if the file has the size and the time of change that it had. A file with errors gets none.

    Args:
        path: the annotation file.
        subject: how problems call it.
        folder: where indexes lie, as STEM.npz; it is made.

    Returns:
        the index, and why it could not be written, if it could not.
    """
    target = folder / f"{path.stem}.npz"
    try:
        status = path.stat()
        stamp = [INDEX_VERSION, status.st_size, status.st_mtime_ns]
    except OSError:
        stamp = []  # reading it will say why
    index = _stored(target, stamp)
    if index is not None:
        return index, None
    annotations = read_annotations(path, subject)
    index = _index(annotations)
    try:
        if annotations.usable:
            _store(target, index, stamp)
    except OSError as reason:
        return index, reason
    return index, None


def _sound(document: dict[str, Any], key: str, found: Annotations) -> Iterator[tuple[str, dict[str, Any]]]:
    """The items of a list that have what they need, with their places; the others become problems."""
    for place, item in enumerate(document[key], 1):
        where = f"{found.subject} {key} item {place}"
        wrong = [name for name, kind in NEEDED[key].items() if not _is(kind, item, name)]
        if wrong:
            needed = ", ".join(f"`{name}` ({KIND_NAMES[kind]})" for name, kind in NEEDED[key].items())
            message = f"{first_five(f'`{name}`' for name in wrong)} is missing or of another kind; it needs {needed}"
            found.problems.append(error("bad-annotation", where, message))
        else:
            yield where, item


def _is(kind: type, item: object, name: str) -> bool:
    """Whether an item has a value of a kind; of numbers, what 64 bits hold."""
    value = item.get(name) if isinstance(item, dict) else None
    return type(value) is kind and (not isinstance(value, int) or -(2**63) <= value < 2**63)


def _read_categories(document: dict[str, Any], found: Annotations) -> None:
    names: dict[int, str] = {}
    for where, item in _sound(document, "categories", found):
        number, name = item["id"], nfc(item["name"].strip())
        if number in names or name in names.values():
            twice = f"the id {number}" if number in names else f"the name `{name}`"
            message = f"two categories have {twice}; each should have its own id and name"
            found.problems.append(error("bad-classes", where, message))
        elif not name or not name.isprintable():
            message = f"the category {number} has no name that can be shown; name it"
            found.problems.append(error("bad-classes", where, message))
        else:
            names[number] = name
    found.categories = dict(sorted(names.items()))


def _read_images(document: dict[str, Any], found: Annotations) -> None:
    places: dict[str, str] = {}
    for where, item in _sound(document, "images", found):
        number, name, size = item["id"], item["file_name"], (item["height"], item["width"])
        fault = _name_problem(where, name)
        if fault:
            found.problems.append(fault)
        elif number in found.images or name in places:
            what = f"the id {number}" if number in found.images else name
            message = f"{what} is listed twice; remove one of the items"
            found.problems.append(error("duplicate-id", where, message))
        elif not all(1 <= side <= LONGEST_SIDE for side in size):
            message = f"{name} is said to be {size[1]} × {size[0]} pixels; a side should have 1 to {LONGEST_SIDE:,}"
            found.problems.append(error("bad-annotation", where, message))
        else:
            found.images[number], places[name] = Image(name, size), where


def _name_problem(where: str, name: str) -> Problem | None:
    """What is wrong with the name of an image's file: it lies in the folder of its split, and nowhere else."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or ":" in parts[0]:
        message = f"file_name `{name}` may lie outside the root; it should be the plain name of a file"
        return error("outside-root", where, message)
    if "\0" in name:
        return error("bad-annotation", where, f"file_name `{name}` holds a null byte, which no file's name can")
    if len(parts) > 1 or name == ".":
        message = f"file_name `{name}` names a folder; it should be the plain name of a file in the folder of the split"
        return error("bad-annotation", where, message)
    return None


def _read_instances(document: dict[str, Any], found: Annotations) -> None:
    void = []
    # What is wrong with a category or an image has been said, and is not said again by each annotation of it.
    whole = all(
        len(kept) == len(document[key]) for key, kept in (("categories", found.categories), ("images", found.images))
    )
    for where, item in _sound(document, "annotations", found):
        named, crowd = f"annotation {item['id']}", CROWDS.get(str(item.get("iscrowd")).lower())
        if crowd is None:
            message = f"{named}: `iscrowd` should be 0 or 1, it is {item['iscrowd']!r}; correct it"
            found.problems.append(error("bad-annotation", where, message))
            continue
        instance = Instance(item["id"], item["category_id"], crowd, item.get("segmentation"))
        image = found.images.get(item["image_id"])
        if image is None or instance.category not in found.categories:
            key, number = ("images", item["image_id"]) if image is None else ("categories", instance.category)
            message = f"{named} is of {number}, which the list `{key}` does not hold; add it, or remove the annotation"
            found.problems += [error("bad-annotation", where, message)] if whole else []
            continue
        if fault := segmentation_fault(instance.segmentation, image.size):
            message = f"{named} of {image.name}: {fault}; correct or remove it"
            found.problems.append(error("bad-annotation", where, message))
        elif is_void(instance.segmentation):
            void.append(instance.number)
        found.instances.setdefault(item["image_id"], []).append(instance)
    if void:
        message = f"annotations with an empty segmentation, or a polygon of fewer than 3 points ({len(void)})"
        rule = "they count as tags, and nothing is painted of such a part"
        found.problems.append(warning("bad-annotation", found.subject, f"{message}: {first_five(void)}; {rule}"))


def _index(found: Annotations) -> Index:
    """What a listing needs of annotations."""
    columns = {category: column for column, category in enumerate(found.categories)}
    tags = np.zeros((len(found.images), len(columns)), dtype=np.bool_)
    for row, number in enumerate(found.images):
        tags[row, [columns[instance.category] for instance in found.instances.get(number, ())]] = True
    images = found.images.values()
    return Index(
        digest=found.digest,
        classes=tuple(found.categories.values()),
        numbers=np.array(list(found.images), dtype=np.int64),
        names=tuple(image.name for image in images),
        sizes=np.array([image.size for image in images], dtype=np.int32).reshape(-1, 2),
        tags=tags,
        problems=tuple(found.problems),
    )


def _store(path: Path, index: Index, stamp: list[int]) -> None:
    """Write an index; its text goes as JSON, so that nothing in the file is a pickle."""
    text = {
        "stamp": stamp,
        "digest": index.digest,
        "classes": index.classes,
        "names": index.names,
        "problems": [asdict(problem) for problem in index.problems],
    }
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            text=np.frombuffer(json.dumps(text).encode("ascii"), dtype=np.uint8),
            numbers=index.numbers,
            sizes=index.sizes,
            tags=np.packbits(index.tags, axis=1),
        )


def _stored(path: Path, stamp: list[int]) -> Index | None:
    """The index in a file; None where there is none, or it is damaged or of another state of the annotations."""
    try:
        text = json.loads(read_npz(path, ("text",))["text"].tobytes())
        if text["stamp"] != stamp:
            return None
        arrays, classes, names = read_npz(path), tuple(text["classes"]), tuple(text["names"])
        return Index(
            digest=text["digest"],
            classes=classes,
            numbers=arrays["numbers"],
            names=names,
            sizes=arrays["sizes"].reshape(len(names), 2),
            tags=np.unpackbits(arrays["tags"], axis=1, count=len(classes)).astype(np.bool_),
            problems=tuple(Problem(**problem) for problem in text["problems"]),
        )
    except DAMAGED:
        return None
