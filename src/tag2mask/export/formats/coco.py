"""Masks as COCO annotations in JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from tag2mask.export.formats.base import ExportSettings, Writer
from tag2mask.export.formats.components import Region, regions
from tag2mask.export.formats.record import MaskRecord


class CocoWriter(Writer):
    """Run lengths are lossless except for 255, which becomes background; polygons lose holes.

    255 does not become a crowd region, since a crowd region contains objects of one category.

    ::

        annotations/instances_SPLIT.json      images and annotations numbered from 1, category ids are class ids
        SPLIT/ID.jpg                          on request
    """

    options = frozenset({"images", "min_pixels", "pieces", "polygons"})

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Prepare an export."""
        super().__init__(folder, classes, settings)
        self._images: list[str] = []  # as JSON text, which takes less memory
        self._annotations: list[str] = []
        self._lacking_tags = 0

    def add(self, record: MaskRecord) -> None:
        """Collect the image and its annotations for the JSON file."""
        self.place_image(record, self.settings.split)
        height, width = record.size
        image_id = len(self._images) + 1
        image = {"id": image_id, "file_name": record.file_name, "height": height, "width": width}
        self._images.append(_dumps(image))
        shown = set()
        for annotation in self._annotations_of(record):
            shown.add(annotation["category_id"])
            numbers = {"id": len(self._annotations) + 1, "image_id": image_id}
            self._annotations.append(_dumps(numbers | annotation))
        self._lacking_tags += not shown.issuperset(record.tags or ()) or not shown
        self.count_ignored(record)

    def finish(self) -> None:
        """Write the JSON file."""
        categories = [{"id": class_id, "name": name} for class_id, name in enumerate(self.classes, start=1)]
        with self.open_text(f"annotations/instances_{self.settings.split}.json") as file:
            file.write(f'{{"info": {_dumps(self._info())},\n"images": [{_items(self._images)}],\n"annotations": [')
            file.write(f'{_items(self._annotations)}],\n"categories": {_dumps(categories)}}}\n')
        if self._lacking_tags:
            images = f"{self._lacking_tags:,} images have no annotation of a tag, or none at all"
            self.notes.append(f"{images}; to read the export with all tags, give their table as --data.tags")

    def _annotations_of(self, record: MaskRecord) -> Iterator[dict[str, Any]]:
        for region in regions(record.mask, connected=self.settings.pieces == "components"):
            if self.is_tiny(region.area, self.settings.min_pixels or 1):
                continue
            yield {
                "category_id": region.class_id,
                "segmentation": self._polygons(region) if self.settings.polygons else _runs(region, record.size),
                "area": region.area,
                "bbox": list(region.box),
                "iscrowd": 0,
            }

    def _polygons(self, region: Region) -> list[list[int]]:
        """A polygon per component: x, y, x, y, …"""
        found = []
        for component in region.components():
            corners, holes = component.polygon()
            self.losses.holes += holes
            found.append(corners.ravel().tolist())
        return found

    def _info(self) -> dict[str, str]:
        what = {"components": "connected component, which need not be one object", "classes": "class of an image"}
        return {
            "description": f"masks by tag2mask; an annotation is a {what[self.settings.pieces]}; what a mask leaves "
            "open (255) is in no annotation"
        }


def _runs(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths."""
    runs = coco_masks.encode(np.asfortranarray(region.full_mask(size), dtype=np.uint8))
    return {"size": list(size), "counts": runs["counts"].decode("ascii")}


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _items(lines: list[str]) -> str:
    """The items of a JSON list, one per line."""
    return "".join(f"{',' * (number > 0)}\n{line}" for number, line in enumerate(lines))
