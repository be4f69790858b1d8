"""Masks as FiftyOne's ImageSegmentationDirectory."""

from PIL import Image

from tag2mask.data.images import IGNORED
from tag2mask.files import write_json
from tag2mask.formats.record import MaskRecord
from tag2mask.formats.settings import BACKGROUND, Images
from tag2mask.formats.target import place_image
from tag2mask.formats.writer import Writer

TARGETS = "mask_targets.json"


class FiftyOneWriter(Writer):
    """Nothing is lost: 8-bit grey PNGs whose values are class ids, 255 is ignored.

    A palette would be looked up there, and the ids lost.

    ::

        data/ID.jpg                           the photographs, symbolic links unless asked otherwise
        labels/ID.png                         parallel to them
        mask_targets.json                     {"0": "background", "1": NAME, …, "255": "ignored"}
    """

    images: Images = "symlink"

    def add(self, record: MaskRecord) -> None:
        """Write the mask beside its photograph."""
        if record.image is not None:
            place_image(record.image, self.folder / "data" / record.file_name, self.images)
        path = self.folder / "labels" / f"{record.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(record.mask).save(path, format="PNG")

    def finish(self) -> None:
        """Write the names of the values."""
        names = {**dict(enumerate((BACKGROUND, *self.classes))), IGNORED: "ignored"}
        write_json(self.folder / TARGETS, {str(value): name for value, name in names.items()})
        if self.images == "none":
            self.notes.append("data/ is empty: FiftyOne takes only masks whose photographs lie there")
