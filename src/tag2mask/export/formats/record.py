"""An image's mask on its way to or from another tool, and the names that these tools can hold."""

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
    """An image and its mask, as every format writes it.

    Attributes:
        id: image ID, with subfolders, separated by ``/``.
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
        """The ID with the suffix of its image; ID.jpg, a guess, without an image."""
        return self.id + (self.image.suffix if self.image is not None else ".jpg")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.mask.shape[0]), int(self.mask.shape[1])


class Corrected(NamedTuple):
    """A corrected mask.

    Attributes:
        id: image ID.
        mask: uint8 (H, W): 0 background, 1..C the classes, 255 ignored.
    """

    id: str
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Note:
    """A remark of a reader about the whole file."""

    text: str


Read = Corrected | tuple[str, str] | Note
"""What a reader yields: a corrected mask; an ID and why its mask cannot be used; or a note at the end."""


def checked_id(image_id: str) -> str:
    """An ID that can be a file below any folder, and a line of a list.

    Raises:
        Tag2maskError: it is empty, leads out of the folder, has control characters, or ends in a blank.
    """
    parts = image_id.split("/")
    climbs = any(part in ("", ".", "..") for part in parts) or "\\" in image_id or re.match(r"[A-Za-z]:", image_id)
    if climbs or _UNWRITABLE.search(image_id) or image_id != image_id.strip():
        raise Tag2maskError(
            f"{image_id!r} is no ID of an image: it should be a path below a folder, without `..`, backslashes, "
            "line breaks, and blanks at its ends; rename the file"
        )
    return image_id


def refuse_names(classes: tuple[str, ...], taken: tuple[str, ...] = ()) -> None:
    """Refuse class names that `labelmap.txt` of VOC and CVAT cannot hold.

    Args:
        classes: names without background.
        taken: names with another meaning there.

    Raises:
        UsageError: the first five such names.
    """
    wrong = [
        name
        for name in classes
        if not name or ":" in name or name.startswith("#") or name != name.strip() or _UNWRITABLE.search(name)
    ]
    if wrong:
        raise UsageError(
            f"labelmap.txt cannot hold the class names {first_five(map(repr, wrong))}: it separates by `:`, comments "
            "begin with `#`, blanks at the ends are lost; rename them in data.classes"
        )
    if meant := [name for name in classes if name in taken]:
        raise UsageError(f"the class name {first_five(meant)} means something else there; rename it in data.classes")


def label_ids(classes: tuple[str, ...], ignored: str) -> dict[str, int]:
    """Mask values by a tool's labels: background, the classes, and 255 unless its label is background.

    Raises:
        UsageError: a class has the name of one of the others.
    """
    ids = {BACKGROUND: 0} | ({} if ignored == BACKGROUND else {ignored: IGNORED})
    if taken := [name for name in classes if name in ids]:
        raise UsageError(
            f"the class `{taken[0]}` has the name of a label that means something else; see --ignore-label"
        )
    return ids | {name: class_id for class_id, name in enumerate(classes, start=1)}
