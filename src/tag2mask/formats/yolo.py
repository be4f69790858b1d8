"""Masks as YOLO's text files of polygons."""

from pathlib import Path

import yaml

from tag2mask.formats.pieces import pieces
from tag2mask.formats.record import MaskRecord
from tag2mask.formats.settings import ExportSettings, Images
from tag2mask.formats.target import place_image
from tag2mask.formats.writer import Writer


class YoloWriter(Writer):
    """A polygon for each connected component: holes, tiny pieces and 255 are lost.

    ::

        images/SPLIT/ID.jpg                   the photographs, symbolic links unless asked otherwise
        labels/SPLIT/ID.txt                   CLASS x1 y1 x2 y2 … a line, in [0, 1]; CLASS counts from 0
        data.yaml
    """

    images: Images = "symlink"

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin."""
        super().__init__(folder, classes, settings)
        self._least = settings.least_pixels or 16

    def add(self, record: MaskRecord) -> None:
        """Write the polygons beside their photograph; an empty file where there is none."""
        if record.image is not None:
            place_image(record.image, self.folder / "images" / self.settings.split / record.file_name, self.images)
        path = self.folder / "labels" / self.settings.split / f"{record.id}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(self._lines(record)), encoding="ascii")
        self.count_ignored(record)

    def finish(self) -> None:
        """Write data.yaml, which is for training and validating alike."""
        place = f"images/{self.settings.split}"
        said = {"train": place, "val": place, "names": dict(enumerate(self.classes))}
        with self.open_text("data.yaml") as file:
            yaml.safe_dump(said, file, sort_keys=False, allow_unicode=True)
        self.notes.append(f"data.yaml names {place} for training and for validating; give val a split of its own")
        if self.images == "none":
            self.notes.append("images/ is empty: YOLO looks for the photographs there")

    def _lines(self, record: MaskRecord) -> list[str]:
        height, width = record.size
        found = []
        for piece in pieces(record.mask, components=True):
            if piece.area < self._least:
                self.losses.tiny += 1
                self.losses.tiny_pixels += piece.area
                continue
            corners, holes = piece.outline()
            self.losses.holes += holes
            numbers = " ".join(f"{x / width:.6f} {y / height:.6f}" for x, y in corners.tolist())
            found.append(f"{piece.class_id - 1} {numbers}\n")
        return found
