"""Masks as a root of PASCAL VOC: palette PNGs, a list of IDs, the class list."""

from pathlib import Path

from tag2mask.data.images import IGNORED, palette, write_mask
from tag2mask.formats.record import MaskRecord, refuse_names
from tag2mask.formats.settings import BACKGROUND, ExportSettings
from tag2mask.formats.target import place_image
from tag2mask.formats.writer import Writer

LABELS = "labelmap.txt"
HEADER = "# label:color_rgb:parts:actions\n"


class VocWriter(Writer):
    """Nothing is lost: the values are class ids, 255 is ignored.

    ::

        JPEGImages/ID.jpg                     on request
        SegmentationClass/ID.png
        ImageSets/Segmentation/SPLIT.txt      an ID a line
        labelmap.txt                          NAME:R,G,B:: a line, in the order of the ids, the last one is 255
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin the list.

        Raises:
            UsageError: labelmap.txt cannot hold a class name.
        """
        refuse_names(classes, (BACKGROUND, "ignored"))
        super().__init__(folder, classes, settings)
        self._list = self.open_text(f"ImageSets/Segmentation/{settings.split}.txt")
        self._blanks = 0

    def add(self, record: MaskRecord) -> None:
        """Write the mask, and the ID into the list."""
        if record.image is not None:
            place_image(record.image, self.folder / "JPEGImages" / record.file_name, self.images)
        write_mask(self.folder / "SegmentationClass" / f"{record.id}.png", record.mask)
        self._list.write(f"{record.id}\n")
        self._blanks += len(record.id.split()) > 1

    def finish(self) -> None:
        """Write the class list."""
        if self._blanks:
            self.notes.append(
                f"{self._blanks:,} IDs hold blanks; tools that end an ID at a blank, as tag2mask does, miss them"
            )
        lines = [label_line(name, class_id) for class_id, name in enumerate((BACKGROUND, *self.classes))]
        with self.open_text(LABELS) as file:
            file.writelines([HEADER, *lines, label_line("ignored", IGNORED)])

    def close(self) -> None:
        """Close the list."""
        self._list.close()


def label_line(name: str, class_id: int) -> str:
    """The line of a class in labelmap.txt, with its colour in VOC's palette."""
    return f"{name}:{','.join(map(str, palette()[class_id]))}::\n"
