"""Masks as a PASCAL VOC data set: palette PNGs, a list of IDs, the class list, the tags."""

import csv
from pathlib import Path

import numpy as np

from tag2mask.core.errors import UsageError, first_five
from tag2mask.data.images import IGNORED, palette, write_mask
from tag2mask.data.readers.table import TABLE_NAME
from tag2mask.data.readers.voc import LABELS
from tag2mask.export.formats.base import ExportSettings, Writer
from tag2mask.export.formats.record import BACKGROUND, MaskRecord, check_label_names

_HEADER = "# label:color_rgb:parts:actions\n"


class VocWriter(Writer):
    """Lossless: the values are class ids, 255 is ignored.

    ::

        JPEGImages/ID.jpg                     on request
        SegmentationClass/ID.png
        ImageSets/Segmentation/SPLIT.txt      one ID per line
        tags.csv                              image,tags; without tags, the classes in the masks
        labelmap.txt                          NAME:R,G,B:: per line, in the order of the ids, 255 last
    """

    options = frozenset({"images"})

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Check the class names.

        Raises:
            UsageError: labelmap.txt or tags.csv does not allow a class name.
        """
        check_label_names(classes, (BACKGROUND, "ignored"))
        if wrong := [name for name in classes if ";" in name]:
            raise UsageError(
                f"tags.csv does not allow the class names {first_five(wrong)}, since `;` separates tags; rename them "
                "in data.classes"
            )
        super().__init__(folder, classes, settings)
        self._ids: list[str] = []
        self._tags: list[tuple[str, str]] = []
        self._without_tags = False

    def add(self, record: MaskRecord) -> None:
        """Write the mask and the image."""
        self.place_image(record, "JPEGImages")
        write_mask(self.folder / "SegmentationClass" / f"{record.id}.png", record.mask)
        self._ids.append(record.id)
        tags = record.tags
        if tags is None:
            self._without_tags = True
            tags = tuple(value for value in np.unique(record.mask).tolist() if 0 < value < IGNORED)
        self._tags.append((record.file_name, ";".join(self.classes[tag - 1] for tag in tags)))

    def finish(self) -> None:
        """Write the list of IDs, the tags and the class list."""
        with self.open_text(f"ImageSets/Segmentation/{self.settings.split}.txt") as file:
            file.writelines(f"{image_id}\n" for image_id in self._ids)
        with self.open_text(TABLE_NAME) as file:
            csv.writer(file, lineterminator="\n").writerows([("image", "tags"), *self._tags])
        with self.open_text(LABELS) as file:
            file.write(labelmap(self.classes, ignored="ignored"))
        if blanks := sum(len(image_id.split()) > 1 for image_id in self._ids):
            self.notes.append(f"{blanks:,} IDs contain blanks; tools that end an ID at a blank will not find them")
        if self._without_tags:
            self.notes.append(f"{TABLE_NAME} holds the classes in the masks, since no tags were given")


def labelmap(classes: tuple[str, ...], *, ignored: str | None) -> str:
    """labelmap.txt: the labels with their colours in VOC's palette; that of 255 last, unless ``ignored`` is None."""
    labels = dict(enumerate((BACKGROUND, *classes))) | ({} if ignored is None else {IGNORED: ignored})
    lines = [f"{name}:{','.join(map(str, palette()[class_id]))}::\n" for class_id, name in labels.items()]
    return "".join([_HEADER, *lines])
