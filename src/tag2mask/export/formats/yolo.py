"""Masks as YOLO's text files of polygons."""

import yaml

from tag2mask.export.formats.base import Images, Writer
from tag2mask.export.formats.components import regions
from tag2mask.export.formats.record import MaskRecord


class YoloWriter(Writer):
    """A polygon for each connected component; holes, small components and 255 are lost.

    ::

        images/SPLIT/ID.jpg                   the images, symbolic links by default
        labels/SPLIT/ID.txt                   CLASS x1 y1 x2 y2 … per line, in [0, 1]; CLASS counts from 0
        data.yaml
    """

    options = frozenset({"images", "min_pixels"})

    images: Images = "symlink"

    def add(self, record: MaskRecord) -> None:
        """Write the image and its polygons, or an empty file."""
        split, (height, width) = self.settings.split, record.size
        self.place_image(record, f"images/{split}")
        with self.open_text(f"labels/{split}/{record.id}.txt") as file:
            for region in regions(record.mask, connected=True):
                if self.is_tiny(region.area, self.settings.min_pixels or 16):
                    continue
                corners, holes = region.polygon()
                self.losses.holes += holes
                numbers = " ".join(f"{x / width:.6f} {y / height:.6f}" for x, y in corners.tolist())
                file.write(f"{region.class_id - 1} {numbers}\n")
        self.count_ignored(record)

    def finish(self) -> None:
        """Write data.yaml."""
        folder = f"images/{self.settings.split}"
        content = {"train": folder, "val": folder, "names": dict(enumerate(self.classes))}
        with self.open_text("data.yaml") as file:
            yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)
        self.notes.append(f"data.yaml names {folder} for training and for validation; set `val` to another split")
        if self.images == "none":
            self.notes.append("images/ is empty: YOLO looks for the images there")
