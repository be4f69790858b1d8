"""Masks as FiftyOne's ImageSegmentationDirectory."""

from tag2mask.core.files import write_json
from tag2mask.data.images import IGNORED
from tag2mask.export.formats.base import Images, Writer
from tag2mask.export.formats.record import BACKGROUND, MaskRecord


class FiftyOneWriter(Writer):
    """Lossless: 8-bit grey PNGs whose values are class ids, 255 is ignored.

    FiftyOne would convert a palette image to colours and lose the ids.

    ::

        data/ID.jpg                           the images, symbolic links by default
        labels/ID.png                         the masks
        mask_targets.json                     {"0": "background", "1": NAME, …, "255": "ignored"}
    """

    options = frozenset({"images"})

    images: Images = "symlink"

    def add(self, record: MaskRecord) -> None:
        """Write the mask and the image."""
        self.place_image(record, "data")
        self.write_png(f"labels/{record.id}.png", record.mask)

    def finish(self) -> None:
        """Write the names of the values."""
        names = {**dict(enumerate((BACKGROUND, *self.classes))), IGNORED: "ignored"}
        write_json(self.folder / "mask_targets.json", {str(value): name for value, name in names.items()})
        if self.images == "none":
            self.notes.append("data/ is empty: FiftyOne needs the images there")
