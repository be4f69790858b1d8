"""Masks as COCO's JSON of annotations, written as it comes and never held."""

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from tag2mask.formats.pieces import Piece, pieces
from tag2mask.formats.record import MaskRecord
from tag2mask.formats.settings import ExportSettings
from tag2mask.formats.target import place_image
from tag2mask.formats.writer import Writer


class CocoWriter(Writer):
    """Run lengths keep every pixel; 255 becomes nothing, and polygons lose holes.

    255 does not become a crowd region: a crowd has one category, and says that objects of it are there.

    ::

        annotations/instances_SPLIT.json      images and annotations numbered from 1, category ids are class ids
        SPLIT/ID.jpg                          on request
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin the lists of images and of annotations, which one file takes one after the other."""
        super().__init__(folder, classes, settings)
        self._path = folder / "annotations" / f"instances_{settings.split}.json"
        self._rest = self._path.with_name("annotations.part")
        self._images, self._annotations = (self.open_text(f"annotations/{p.name}") for p in (self._path, self._rest))
        self._image_count = self._annotation_count = self._unshown = 0
        self._least = settings.least_pixels or 1
        self._images.write(f'{{"info": {_text(self._info())},\n"images": [')

    def add(self, record: MaskRecord) -> None:
        """Write a photograph's line and those of its annotations."""
        if record.image is not None:
            place_image(record.image, self.folder / self.settings.split / record.file_name, self.images)
        self._image_count += 1
        height, width = record.size
        image = {"id": self._image_count, "file_name": record.file_name, "height": height, "width": width}
        self._images.write(_line(image, self._image_count))
        shown = set()
        for annotation in self._annotations_of(record):
            shown.add(annotation["category_id"])
            self._annotation_count += 1
            whole = {"id": self._annotation_count, "image_id": self._image_count, **annotation}
            self._annotations.write(_line(whole, self._annotation_count))
        self._unshown += not shown.issuperset(record.tags or ()) or not shown
        self.count_ignored(record)

    def finish(self) -> None:
        """Put the annotations behind the images, and the categories at the end."""
        categories = [{"id": class_id, "name": name} for class_id, name in enumerate(self.classes, start=1)]
        self._annotations.close()
        self._images.write('],\n"annotations": [')
        with self._rest.open(encoding="utf-8") as annotations:
            copyfileobj(annotations, self._images)
        self._images.write(f'],\n"categories": {_text(categories)}}}\n')
        self._rest.unlink()
        if self._unshown:
            photographs = f"{self._unshown:,} photographs have no annotation of a tag, or none at all"
            self.notes.append(f"{photographs}; to read the export with all tags, give their table as --data.tags")

    def close(self) -> None:
        """Close both files."""
        self._images.close()
        self._annotations.close()

    def _annotations_of(self, record: MaskRecord) -> Iterator[dict[str, Any]]:
        for piece in pieces(record.mask, components=self.settings.pieces == "components"):
            area = piece.area
            if area < self._least:
                self.losses.tiny += 1
                self.losses.tiny_pixels += area
                continue
            yield {
                "category_id": piece.class_id,
                "segmentation": self._outlines(piece) if self.settings.polygons else _runs(piece, record.size),
                "area": area,
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
    """COCO's text for run lengths."""
    runs = coco_masks.encode(np.asfortranarray(piece.full(size), dtype=np.uint8))
    return {"size": list(size), "counts": runs["counts"].decode("ascii")}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _line(value: dict[str, Any], number: int) -> str:
    return f"{',' if number > 1 else ''}\n{_text(value)}"
