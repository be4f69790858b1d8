"""Masks as a root of PASCAL VOC: palette PNGs, a list of IDs, the class list, the tags."""

import csv
from pathlib import Path

import numpy as np

from tag2mask.data.images import IGNORED, palette, write_mask
from tag2mask.data.table import TABLE_NAME
from tag2mask.data.voc import LABELS
from tag2mask.errors import UsageError, first_five
from tag2mask.formats.record import MaskRecord, refuse_names
from tag2mask.formats.settings import BACKGROUND, ExportSettings
from tag2mask.formats.target import place_image
from tag2mask.formats.writer import Writer

HEADER = "# label:color_rgb:parts:actions\n"


class VocWriter(Writer):
    """Nothing is lost: the values are class ids, 255 is ignored.

    ::

        JPEGImages/ID.jpg                     on request
        SegmentationClass/ID.png
        ImageSets/Segmentation/SPLIT.txt      an ID a line
        tags.csv                              image,tags: the tags, of masks alone the classes in them
        labelmap.txt                          NAME:R,G,B:: a line, in the order of the ids, the last one is 255
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin the list and the table.

        Raises:
            UsageError: labelmap.txt or tags.csv cannot hold a class name.
        """
        refuse_names(classes, (BACKGROUND, "ignored"))
        if several := [name for name in classes if ";" in name]:
            raise UsageError(
                f"tags.csv cannot hold the class names {first_five(several)}: it separates tags by `;`; rename them in "
                "data.classes"
            )
        super().__init__(folder, classes, settings)
        self._list = self.open_text(f"ImageSets/Segmentation/{settings.split}.txt")
        self._table = self.open_text(TABLE_NAME)
        self._tags = csv.writer(self._table, lineterminator="\n")
        self._tags.writerow(("image", "tags"))
        self._blanks = self._guessed = 0

    def add(self, record: MaskRecord) -> None:
        """Write the mask, the ID into the list, and the tags into the table."""
        if record.image is not None:
            place_image(record.image, self.folder / "JPEGImages" / record.file_name, self.images)
        write_mask(self.folder / "SegmentationClass" / f"{record.id}.png", record.mask)
        self._list.write(f"{record.id}\n")
        self._blanks += len(record.id.split()) > 1
        self._guessed += record.tags is None
        tags = [value for value in np.unique(record.mask).tolist() if 0 < value < IGNORED]
        tags = tags if record.tags is None else list(record.tags)
        self._tags.writerow((record.file_name, ";".join(self.classes[tag - 1] for tag in tags)))

    def finish(self) -> None:
        """Write the class list."""
        if self._blanks:
            self.notes.append(f"{self._blanks:,} IDs hold blanks; tools that end an ID at a blank miss them")
        if self._guessed:
            self.notes.append(f"{TABLE_NAME} holds the classes in the masks, since no tags were given")
        lines = [label_line(name, class_id) for class_id, name in enumerate((BACKGROUND, *self.classes))]
        with self.open_text(LABELS) as file:
            file.writelines([HEADER, *lines, label_line("ignored", IGNORED)])

    def close(self) -> None:
        """Close the list and the table."""
        self._list.close()
        self._table.close()


def label_line(name: str, class_id: int) -> str:
    """The line of a class in labelmap.txt, with its colour in VOC's palette."""
    return f"{name}:{','.join(map(str, palette()[class_id]))}::\n"
