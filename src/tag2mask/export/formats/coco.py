"""Masks as COCO's JSON of annotations."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from tag2mask.export.formats.base import ExportSettings, Writer
from tag2mask.export.formats.components import Piece, pieces
from tag2mask.export.formats.record import MaskRecord


class CocoWriter(Writer):
    """Run lengths keep every pixel of a class; 255 becomes background, and polygons lose holes.

    255 does not become a crowd region: a crowd region has one category, and contains objects of it.

    ::

        annotations/instances_SPLIT.json      images and annotations numbered from 1, category ids are class ids
        SPLIT/ID.jpg                          on request
    """

    options = frozenset({"images", "min_pixels", "pieces", "polygons"})

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin."""
        super().__init__(folder, classes, settings)
        self._images: list[str] = []  # as JSON, which takes less memory
        self._annotations: list[str] = []
        self._unshown = 0

    def add(self, record: MaskRecord) -> None:
        """Keep the image and its annotations for the JSON file."""
        self.place_image(record, self.settings.split)
        height, width = record.size
        image_id = len(self._images) + 1
        image = {"id": image_id, "file_name": record.file_name, "height": height, "width": width}
        self._images.append(_text(image))
        shown = set()
        for annotation in self._annotations_of(record):
            shown.add(annotation["category_id"])
            numbers = {"id": len(self._annotations) + 1, "image_id": image_id}
            self._annotations.append(_text(numbers | annotation))
        self._unshown += not shown.issuperset(record.tags or ()) or not shown
        self.count_ignored(record)

    def finish(self) -> None:
        """Write the JSON file."""
        categories = [{"id": class_id, "name": name} for class_id, name in enumerate(self.classes, start=1)]
        with self.open_text(f"annotations/instances_{self.settings.split}.json") as file:
            file.write(f'{{"info": {_text(self._info())},\n"images": [')
            file.write(_items(self._images))
            file.write('],\n"annotations": [')
            file.write(_items(self._annotations))
            file.write(f'],\n"categories": {_text(categories)}}}\n')
        if self._unshown:
            images = f"{self._unshown:,} images have no annotation of a tag, or none at all"
            self.notes.append(f"{images}; to read the export with all tags, give their table as --data.tags")

    def _annotations_of(self, record: MaskRecord) -> Iterator[dict[str, Any]]:
        for piece in pieces(record.mask, components=self.settings.pieces == "components"):
            if self.is_tiny(piece.area, self.settings.min_pixels or 1):
                continue
            yield {
                "category_id": piece.class_id,
                "segmentation": self._outlines(piece) if self.settings.polygons else _runs(piece, record.size),
                "area": piece.area,
                "bbox": list(piece.box),
                "iscrowd": 0,
            }

    def _outlines(self, piece: Piece) -> list[list[int]]:
        """A polygon for each component, x, y, x, y, …"""
        found = []
        for component in piece.components():
            corners, holes = component.outline()
            self.losses.holes += holes
            found.append(corners.ravel().tolist())
        return found

    def _info(self) -> dict[str, str]:
        what = {"components": "connected component, which need not be one object", "classes": "class of an image"}
        return {
            "description": f"masks by tag2mask; an annotation is a {what[self.settings.pieces]}; what a mask leaves "
            "open (255) is in no annotation"
        }


def _runs(piece: Piece, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths."""
    runs = coco_masks.encode(np.asfortranarray(piece.full(size), dtype=np.uint8))
    return {"size": list(size), "counts": runs["counts"].decode("ascii")}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _items(lines: list[str]) -> str:
    """The items of a JSON list, one per line."""
    return "".join(f"{',' * (number > 0)}\n{line}" for number, line in enumerate(lines))
