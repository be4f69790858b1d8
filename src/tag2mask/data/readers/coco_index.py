"""An index of an annotation file with the data that a listing needs.

Parsing COCO's own files, hundreds of megabytes of JSON, takes half a minute and gigabytes of memory.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import UsageError
from tag2mask.core.files import DAMAGED, atomic_path, read_npz, require_inside
from tag2mask.data.problems import Problem
from tag2mask.data.readers.coco_annotations import AnnotationFile, read_annotations
from tag2mask.data.readers.image_paths import name_fault

INDEX_VERSION = 3  # increase when the index, or the checks before it is written, change


@dataclass(frozen=True)
class Index:
    """The index of an annotation file."""

    digest: str  # SHA-256 of the file
    categories: dict[int, str]  # the C names by official category id, ascending
    numbers: npt.NDArray[np.int64]  # (N,), the image ids in the order of the file
    names: tuple[str, ...]  # the file names
    sizes: npt.NDArray[np.int32]  # (N, 2), (height, width)
    tags: npt.NDArray[np.bool_]  # (N, C), the annotated classes, also of crowds
    notes: tuple[str, ...]  # deviations from COCO's format
    problems: tuple[Problem, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories."""
        return tuple(self.categories.values())


def read_index(path: Path, subject: str, folder: Path, root: Path) -> tuple[Index, OSError | UsageError | None]:
    """The index of an annotation file, and the error of writing it, if any.

    It is read from ``folder``/STEM.npz if it was written for the same file size and modification time; otherwise it is
    computed and written there, unless that is outside of ``root``. It is not written if the file has errors or images
    without a size. ``subject`` is the file, for messages.
    """
    target = folder / f"{path.stem}.npz"
    try:
        status = path.stat()
        stamp = [INDEX_VERSION, status.st_size, status.st_mtime_ns]
    except OSError:
        stamp = []  # reading the file reports the reason
    index = _load(target, stamp)
    if index is not None:
        return index, None
    annotations = read_annotations(path, subject)
    index = _index(annotations)
    try:
        if annotations.usable and not annotations.measured:
            require_inside(root, target)
            _save(target, index, stamp)
    except (OSError, UsageError) as reason:
        return index, reason
    return index, None


def _index(found: AnnotationFile) -> Index:
    columns = {category: column for column, category in enumerate(found.categories)}
    tags = np.zeros((len(found.images), len(columns)), dtype=np.bool_)
    for row, number in enumerate(found.images):
        tags[row, [columns[each.category] for each in found.annotations.get(number, ())]] = True
    images = found.images.values()
    return Index(
        digest=found.digest,
        categories=found.categories,
        numbers=np.array(list(found.images), dtype=np.int64),
        names=tuple(image.name for image in images),
        sizes=np.array([image.size for image in images], dtype=np.int32).reshape(-1, 2),
        tags=tags,
        notes=tuple(found.notes()),
        problems=tuple(found.problems),
    )


def _save(path: Path, index: Index, stamp: list[int]) -> None:
    arrays = {"numbers": index.numbers, "sizes": index.sizes, "tags": np.packbits(index.tags, axis=1)}
    text = {"stamp": stamp, **{name: value for name, value in vars(index).items() if name not in arrays}}
    text |= {"categories": list(index.categories.items()), "problems": [asdict(each) for each in index.problems]}
    coded = np.frombuffer(json.dumps(text).encode("ascii"), dtype=np.uint8)  # JSON, so that no pickle is needed
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, text=coded, **arrays)  # type: ignore[arg-type]


def _load(path: Path, stamp: list[int]) -> Index | None:
    """The index in a file; None if it is missing, damaged or outdated, or names an image outside of the root."""
    try:
        text = json.loads(read_npz(path, ("text",))["text"].tobytes())
        if text["stamp"] != stamp:
            return None
        arrays, names, notes = read_npz(path), tuple(text["names"]), tuple(text["notes"])
        categories = {int(number): name for number, name in text["categories"]}
        tags = np.unpackbits(arrays["tags"], axis=1, count=len(categories)).astype(np.bool_)
        valid = all(isinstance(name, str) for name in (*names, *categories.values(), *notes))
        valid = valid and not any(name_fault(name) is not None for name in names)
        if not valid or not len(arrays["numbers"]) == len(tags) == len(names):
            return None
        return Index(
            digest=text["digest"],
            categories=categories,
            numbers=arrays["numbers"],
            names=names,
            sizes=arrays["sizes"].reshape(len(names), 2),
            tags=tags,
            notes=notes,
            problems=tuple(Problem(**problem) for problem in text["problems"]),
        )
    except DAMAGED:
        return None
