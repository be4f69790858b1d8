"""Masks as CVAT's "Segmentation mask 1.1", and corrected ones back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.data.decoding import decode, opened
from tag2mask.data.images import IGNORED, PIXEL_LIMIT, palette
from tag2mask.data.voc import LABELS
from tag2mask.errors import Tag2maskError, UsageError, first_five
from tag2mask.formats.archive import opened_archive
from tag2mask.formats.corrected import Corrected, Read, label_ids
from tag2mask.formats.pieces import pieces
from tag2mask.formats.record import MaskRecord, checked_id, refuse_names
from tag2mask.formats.settings import BACKGROUND, ExportSettings
from tag2mask.formats.target import place_image
from tag2mask.formats.voc import HEADER, label_line
from tag2mask.formats.writer import Writer

CLASSES, OBJECTS, LISTS = "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"

_MOST_OBJECTS = 254
"""CVAT tells the objects of an image apart by the 256 colours of VOC's palette, of which black is none."""


class CvatWriter(Writer):
    """Nothing is lost, except 255 where it is to become background.

    ::

        labelmap.txt                          NAME:R,G,B:: a line
        ImageSets/Segmentation/default.txt    an ID a line
        SegmentationClass/ID.png              RGB, the colours of labelmap.txt
        SegmentationObject/ID.png             RGB, a colour for each connected component
        JPEGImages/ID.jpg                     on request; CVAT has its own
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin the list.

        Raises:
            UsageError: labelmap.txt cannot hold a class name, or the label of 255 is a class.
        """
        refuse_names(classes, (BACKGROUND, settings.ignored))
        refuse_names((settings.ignored,))
        super().__init__(folder, classes, settings)
        self._list = self.open_text(f"{LISTS}/default.txt")
        self._met_ignored, self._merged = False, 0

    def add(self, record: MaskRecord) -> None:
        """Write both masks, and the ID into the list."""
        mask = record.mask
        if np.any(mask == IGNORED):
            if self.settings.ignored == BACKGROUND:
                self.count_ignored(record)
                mask = np.where(mask == IGNORED, np.uint8(0), mask)
            else:
                self._met_ignored = True
        if record.image is not None:
            place_image(record.image, self.folder / "JPEGImages" / record.file_name, self.images)
        _write_colours(self.folder / CLASSES / f"{record.id}.png", mask)
        _write_colours(self.folder / OBJECTS / f"{record.id}.png", self._objects(mask))
        self._list.write(f"{record.id}\n")

    def finish(self) -> None:
        """Write the labels, that of 255 where it was met."""
        lines = [label_line(name, class_id) for class_id, name in enumerate((BACKGROUND, *self.classes))]
        if self._met_ignored:
            lines.append(label_line(self.settings.ignored, IGNORED))
            self.notes.append(f"255 became the label `{self.settings.ignored}`, which the task in CVAT has to have")
        with self.open_text(LABELS) as file:
            file.writelines([HEADER, *lines])
        if self._merged:
            self.notes.append(f"{self._merged:,} masks have too many components for CVAT: one object for each class")

    def close(self) -> None:
        """Close the list."""
        self._list.close()

    def _objects(self, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The number of each pixel's object, uint8 (H, W), 0 for background; what is ignored is one object."""
        found = list(pieces(mask, components=True))
        if len(found) > _MOST_OBJECTS:
            self._merged += 1
            found = list(pieces(mask, components=False))
        numbers = np.where(mask == IGNORED, np.uint8(IGNORED), np.uint8(0))
        for number, piece in enumerate(found, start=1):
            height, width = piece.covered.shape
            numbers[piece.top : piece.top + height, piece.left : piece.left + width][piece.covered] = number
        return numbers


def read(
    path: Path, classes: tuple[str, ...], *, ignored: str = "ignored", pixel_limit: int = PIXEL_LIMIT
) -> Iterator[Read]:
    """The masks of CVAT's "Segmentation mask 1.1", a zip or the folder that was in it.

    A colour is the label that labelmap.txt gives it; a label is the class of that name.

    Args:
        path: the zip, or the folder.
        classes: the names of the classes 1..C.
        ignored: the label that is 255.
        pixel_limit: a larger mask is refused before it is decoded.

    Yields:
        the ID of each listed photograph with its mask, or why it cannot be used.

    Raises:
        UsageError: it is nothing of CVAT's, or has labels that are no classes.
        Tag2maskError: the zip is damaged or dangerous.
    """
    with opened_archive(path) as files:
        if LABELS not in files:
            raise UsageError(f"{path} has no {LABELS}; export the task from CVAT as `Segmentation mask 1.1`")
        colours = _labels(path, files.text(LABELS), classes, ignored)
        lists = [name for name in files if name.startswith(f"{LISTS}/") and name.endswith(".txt")]
        if not lists:
            raise UsageError(f"{path} has no list {LISTS}/NAME.txt; export the task from CVAT again")
        listed = (line.strip() for name in lists for line in files.text(name).splitlines())
        for photo_id in dict.fromkeys(line for line in listed if line):
            try:
                name = f"{CLASSES}/{checked_id(photo_id)}.png"
                if name not in files:
                    raise Tag2maskError(f"it is listed and has no {name}: nothing is drawn there, or nobody looked yet")
                member = files.file(name)
                with opened(member, pixel_limit=pixel_limit, formats=("PNG",)) as image:  # type: ignore[arg-type]
                    yield Corrected(photo_id, _class_ids(decode(member, image), colours))  # type: ignore[arg-type]
            except Tag2maskError as error:
                yield photo_id, str(error)


def _labels(path: Path, text: str, classes: tuple[str, ...], ignored: str) -> dict[tuple[int, int, int], int]:
    """The class id of each colour in labelmap.txt.

    Raises:
        UsageError: a line has no meaning, a label is no class, or two have one colour.
    """
    ids = label_ids(classes, ignored)
    found: dict[tuple[int, int, int], int] = {}
    unknown = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        colour = tuple(
            int(part) if part.strip().isdecimal() and len(part) < 9 else -1
            for part in rest.partition(":")[0].split(",")
        )
        if len(colour) != 3 or not all(0 <= part <= 255 for part in colour) or colour in found:
            raise UsageError(f"{path}: the line {line!r} of {LABELS} should be NAME:R,G,B:: with a colour of its own")
        if name not in ids:
            unknown.append(name)
        found[colour] = ids.get(name, 0)
    if unknown:
        raise UsageError(
            f"{path}: the labels {first_five(unknown)} are no classes ({first_five(classes)}); rename them in CVAT, or "
            "name the one that is 255 with --ignored"
        )
    return {(0, 0, 0): 0, **found}  # where nothing was drawn, whatever colour `background` has


def _class_ids(image: Image.Image, colours: dict[tuple[int, int, int], int]) -> npt.NDArray[np.uint8]:
    """The class ids of a painted mask, uint8 (H, W).

    Raises:
        Tag2maskError: it has a colour that no label has, or is no image of colours.
    """
    if image.mode not in ("P", "RGB", "RGBA"):
        raise Tag2maskError(f"its pixels are of the kind {image.mode}; CVAT writes colours")
    pixels = np.array(image.convert("RGB"), dtype=np.int64)  # (H, W, 3)
    codes = pixels @ np.array([1 << 16, 1 << 8, 1])  # (H, W)
    met, places = np.unique(codes, return_inverse=True)
    rgb = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in met]
    if wrong := [colour for colour in rgb if colour not in colours]:
        raise Tag2maskError(f"the colours {first_five(wrong)} are no label's in {LABELS}")
    ids: npt.NDArray[np.uint8] = np.array([colours[colour] for colour in rgb], dtype=np.uint8)[places]
    return ids.reshape(codes.shape)


def _write_colours(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """Write values as an RGB PNG in VOC's colours, as CVAT itself does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(palette()[values]).save(path, format="PNG")
