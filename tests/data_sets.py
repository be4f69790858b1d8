"""Small data sets on disk, and what is read, noted and refused of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask.core.errors import UsageError
from tag2mask.data.dataset import open_images, survey
from tag2mask.data.settings import DataSettings

IMAGE = object()
"""As the content of a file: an image of 32 × 24 pixels, or a mask where the name says so."""

Files = dict[str, Any]
"""Content by path: text, bytes or `IMAGE`; a path that ends in `/` is a folder."""

Tags = dict[str, list[str]]
Fault = tuple[str, str]
"""The kind of an error, and a part of its line."""

CAT, DOG = {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]


def plant(root: Path, files: Mapping[str, Any]) -> None:
    """Write files."""
    for number, (name, content) in enumerate(files.items()):
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if content is IMAGE:
            _image(path, number).save(path, format="PNG")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif not name.endswith("/"):
            path.write_text(content, encoding="utf-8")


def _image(path: Path, number: int) -> Image.Image:
    if "mask" in path.name or "ground_truth" in path.parts:
        mask = np.zeros((24, 32), dtype=np.uint8)
        mask[4:12, 6:20] = 255
        return Image.fromarray(mask)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def image(number: Any, name: str, **values: Any) -> dict[str, Any]:
    """An image of a COCO file."""
    return {"id": number, "file_name": name, "height": 24, "width": 32} | values


def annotation(number: Any, item: Any, category: Any = 1, **values: Any) -> dict[str, Any]:
    """An annotation of a COCO file, a square of ten pixels."""
    return {"id": number, "image_id": item, "category_id": category, "iscrowd": 0, "segmentation": [SQUARE]} | values


def document(images: list[Any], annotations: list[Any], *categories: Any) -> str:
    """A COCO file."""
    return json.dumps({"images": images, "annotations": annotations, "categories": list(categories) or [CAT, DOG]})


def failure(settings: DataSettings, split: str | None = None) -> str:
    """What is said of a data set that cannot be opened."""
    with pytest.raises(UsageError) as caught:
        open_images(settings, split=split)
    return str(caught.value)


def assert_read(settings: DataSettings, expected: Tags | Fault, notes: Sequence[str]) -> None:
    """Check the tags by ID, or the one error, and the notes, of which parts are given."""
    found = survey(settings)
    errors = [(problem.kind, str(problem)) for problem in found.problems if problem.level == "error"]
    if isinstance(expected, tuple):
        follows = {"no-tags", "missing-tags"} - {expected[0]}  # from what is expected
        ((kind, line),) = [each for each in errors if each[0] not in follows]
        assert kind == expected[0]
        assert expected[1] in line
    else:
        assert errors == []
        classes = found.images.classes
        assert {each.id: sorted(classes[tag - 1] for tag in each.tags) for each in found.images.items} == expected
        assert all(each.path.is_file() for each in found.images.items)
    said = [note for note in found.listing.notes if "hold none of the classes; add tags" not in note]
    assert notes or not said or isinstance(expected, tuple), said
    assert [part for part in notes if not any(part in note for note in (*said, *found.images.notes))] == []
