"""Masks on their way to and from other tools, and rules for IDs and class names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.data.images import IGNORED

BACKGROUND = "background"

_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
"""Control characters, line breaks, and bytes of a file name that are not UTF-8."""


@dataclass(frozen=True)
class MaskRecord:
    """An image and its mask.

    Attributes:
        id: image ID, with subfolders separated by ``/``.
        image: image file; None if only masks were given.
        mask: uint8 (H, W): 0 background, 1..C the classes, 255 ignored.
        tags: class ids; None if only masks were given.
    """

    id: str
    image: Path | None
    mask: npt.NDArray[np.uint8]
    tags: tuple[int, ...] | None = None

    @property
    def file_name(self) -> str:
        """The ID with the suffix of its image; without an image ID.jpg."""
        return self.id + (self.image.suffix if self.image is not None else ".jpg")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.mask.shape[0]), int(self.mask.shape[1])


class CorrectedMask(NamedTuple):
    """A corrected mask, uint8 (H, W): 0 background, 1..C the classes, 255 ignored."""

    id: str
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Note:
    """A remark about the whole file."""

    text: str


ReadResult = CorrectedMask | tuple[str, str] | Note
"""A reader yields corrected masks, (ID, reason) of masks that cannot be used, and a note at the end."""


def checked_id(image_id: str) -> str:
    """The ID, if it is a valid relative path and a valid line of a list.

    Raises:
        Tag2maskError: it is empty, leads out of the folder, has control characters, or begins or ends with a blank.
    """
    parts = image_id.split("/")
    climbs = any(part in ("", ".", "..") for part in parts) or "\\" in image_id or re.match(r"[A-Za-z]:", image_id)
    if climbs or _UNWRITABLE.search(image_id) or image_id != image_id.strip():
        raise Tag2maskError(
            f"{image_id!r} is not an image ID: it should be a path below a folder, without `..`, backslashes, "
            "line breaks, and blanks at its ends; rename the file"
        )
    return image_id


def check_label_names(classes: tuple[str, ...], reserved: tuple[str, ...] = ()) -> None:
    """Raise a `UsageError` for class names that labelmap.txt of VOC and CVAT does not allow, or that are reserved."""
    wrong = [
        name
        for name in classes
        if not name or ":" in name or name.startswith("#") or name != name.strip() or _UNWRITABLE.search(name)
    ]
    if wrong:
        raise UsageError(
            f"labelmap.txt does not allow the class names {first_five(map(repr, wrong))}: `:` separates its columns, "
            "`#` begins a comment, blanks at the ends are lost; rename them in data.classes"
        )
    if taken := [name for name in classes if name in reserved]:
        raise UsageError(f"the class name {first_five(taken)} is reserved in this format; rename it in data.classes")


def label_ids(classes: tuple[str, ...], ignored: str) -> dict[str, int]:
    """Mask values by label: background, the classes, and ``ignored`` for 255 unless that is background.

    Raises:
        UsageError: two labels have one name.
    """
    ids = {BACKGROUND: 0} | ({} if ignored == BACKGROUND else {ignored: IGNORED})
    if taken := [name for name in classes if name in ids]:
        raise UsageError(f"the class `{taken[0]}` has the name of another label; see --ignore-label")
    return ids | {name: class_id for class_id, name in enumerate(classes, start=1)}
