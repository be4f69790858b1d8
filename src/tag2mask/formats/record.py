"""One photograph with its mask, as every format writes it, and what its ID may be."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.errors import Tag2maskError, UsageError, first_five

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


@dataclass(frozen=True)
class MaskRecord:
    """A photograph and its mask.

    Attributes:
        id: of the photograph, with subfolders, separated by ``/``.
        image: the file; None where only masks were given.
        mask: uint8 (H, W): 0 background, 1..C the classes, 255 ignored.
        tags: class ids; None where only masks were given.
    """

    id: str
    image: Path | None
    mask: npt.NDArray[np.uint8]
    tags: tuple[int, ...] | None = None

    @property
    def file_name(self) -> str:
        """ID with the suffix of its image; a guess, ID.jpg, where there is none."""
        return self.id + (self.image.suffix if self.image is not None else ".jpg")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.mask.shape[0]), int(self.mask.shape[1])


def checked_id(photo_id: str) -> str:
    """An ID that can be a file below any folder, and a line of a list.

    Raises:
        Tag2maskError: it is empty, leads out of the folder, has control characters, or ends in a blank.
    """
    parts = photo_id.split("/")
    climbs = any(part in ("", ".", "..") for part in parts) or "\\" in photo_id or re.match(r"[A-Za-z]:", photo_id)
    if climbs or _CONTROL.search(photo_id) or photo_id != photo_id.strip() or not _is_unicode(photo_id):
        raise Tag2maskError(
            f"{photo_id!r} is no ID of a photograph: it should be a path below a folder, without `..`, backslashes, "
            "line breaks, and blanks at its ends; rename the file"
        )
    return photo_id


def refuse_names(classes: tuple[str, ...], taken: tuple[str, ...] = ()) -> None:
    """Refuse class names that `labelmap.txt` of VOC and CVAT cannot hold.

    Args:
        classes: the names without background.
        taken: names that mean something else there.

    Raises:
        UsageError: the first five such names.
    """
    wrong = [
        name
        for name in classes
        if not name or ":" in name or name.startswith("#") or name != name.strip() or _CONTROL.search(name)
    ]
    if wrong:
        raise UsageError(
            f"labelmap.txt cannot hold the class names {first_five(map(repr, wrong))}: it separates by `:`, comments "
            "begin with `#`, blanks at the ends are lost; rename them in data.classes"
        )
    if meant := [name for name in classes if name in taken]:
        raise UsageError(f"the class name {first_five(meant)} means something else there; rename it in data.classes")


def _is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8, which names of broken encodings cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
