"""A compact index of an annotation file: what a listing needs.

COCO's own files are hundreds of megabytes of JSON, which take half a minute and gigabytes of memory.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.core.files import DAMAGED, atomic_path, read_npz
from tag2mask.data.problems import Problem
from tag2mask.data.readers.coco_annotations import AnnotationFile, read_annotations

INDEX_VERSION = 3  # raised where the index, or what is checked before it is written, changes


@dataclass(frozen=True)
class Index:
    """The index of an annotation file.

    Attributes:
        digest: the SHA-256 of the file.
        categories: the C names by official category id, in its ascending order.
        numbers: the image ids, int64 (N,), in the order of the file.
        names: the file names.
        sizes: (height, width) of each image, int32 (N, 2).
        tags: which classes are annotated, crowds too, bool (N, C).
        notes: deviations from COCO's format.
        problems: what is wrong with the file.
    """

    digest: str
    categories: dict[int, str]
    numbers: npt.NDArray[np.int64]
    names: tuple[str, ...]
    sizes: npt.NDArray[np.int32]
    tags: npt.NDArray[np.bool_]
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories."""
        return tuple(self.categories.values())


def read_index(path: Path, subject: str, folder: Path) -> tuple[Index, OSError | None]:
    """The index of an annotation file: from ``folder``/STEM.npz where it is up to date, else made and put there.

    It is up to date if the file has the same size and time of change. None is kept of a file with errors, or with
    images that had to be measured.

    Args:
        path: the annotation file.
        subject: the file as problems show it.
        folder: of indexes; it is made.

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
        if annotations.usable and not annotations.measured:
            _store(target, index, stamp)
    except OSError as reason:
        return index, reason
    return index, None


def _index(found: AnnotationFile) -> Index:
    columns = {category: column for column, category in enumerate(found.categories)}
    tags = np.zeros((len(found.images), len(columns)), dtype=np.bool_)
    for row, number in enumerate(found.images):
        tags[row, [columns[instance.category] for instance in found.instances.get(number, ())]] = True
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


def _store(path: Path, index: Index, stamp: list[int]) -> None:
    """Write an index, its text as JSON, so that the file holds no pickle."""
    text = {
        "stamp": stamp,
        "digest": index.digest,
        "categories": list(index.categories.items()),
        "names": index.names,
        "notes": index.notes,
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
    """The index in a file; None where there is none, or it is damaged or out of date."""
    try:
        text = json.loads(read_npz(path, ("text",))["text"].tobytes())
        if text["stamp"] != stamp:
            return None
        arrays, categories, names = read_npz(path), dict(text["categories"]), tuple(text["names"])
        return Index(
            digest=text["digest"],
            categories=categories,
            numbers=arrays["numbers"],
            names=names,
            sizes=arrays["sizes"].reshape(len(names), 2),
            tags=np.unpackbits(arrays["tags"], axis=1, count=len(categories)).astype(np.bool_),
            notes=tuple(text["notes"]),
            problems=tuple(Problem(**problem) for problem in text["problems"]),
        )
    except DAMAGED:
        return None
