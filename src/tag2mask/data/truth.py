"""Ground-truth masks: which value of a file is which class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.data.classes import did_you_mean
from tag2mask.data.images import IGNORED, PIXEL_LIMIT, MaskError, read_mask, values_that_are_no_class
from tag2mask.data.names import nfc
from tag2mask.data.problems import Problem, error, one_line

BY_TAG = "tag"
"""In `data.mask_values`: the class is the only tag of the image, as in sets with one binary mask per defect."""

_WORDS = {"background": 0, "ignore": IGNORED}


@dataclass(frozen=True)
class MaskValues:
    """The class of each value of a ground-truth mask, as `data.mask_values` says.

    Attributes:
        classes: (value, class id) pairs; other values stay as they are.
        by_tag: values that stand for the only tag of the image.
    """

    classes: tuple[tuple[int, int], ...] = ()
    by_tag: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Whether any value changes."""
        return bool(self.classes or self.by_tag)

    def apply(self, mask: npt.NDArray[np.uint8], tags: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Class ids for the values of a mask.

        Args:
            mask: uint8 (H, W).
            tags: class ids of its image.

        Raises:
            ValueError: the mask holds a value that stands for the only tag, and the image has none or several.
        """
        if not self:
            return mask
        table = np.arange(256, dtype=np.uint8)
        for value, class_id in self.classes:
            table[value] = class_id
        if self.by_tag and np.isin(mask, self.by_tag).any():
            if len(tags) != 1:
                raise ValueError(f"data.mask_values takes the class from the image's only tag, and it has {len(tags)}")
            table[list(self.by_tag)] = tags[0]
        return table[mask]


def parse_mask_values(text: str | None, classes: Sequence[str]) -> tuple[MaskValues, list[Problem]]:
    """The setting `data.mask_values` as a mapping, and what is wrong with it.

    Args:
        text: ``VALUE=CLASS`` with commas; None for no mapping.
        classes: the names of the classes 1..C.
    """
    pairs: dict[int, int] = {}
    by_tag: list[int] = []
    problems = []
    names = {**{nfc(name): number for number, name in enumerate(classes, 1)}, **_WORDS}
    for piece in (text or "").split(",") if text else ():
        value, _, name = (part.strip() for part in piece.partition("="))
        number = names.get(nfc(name), int(name) if name.isdecimal() and len(name) < 4 else None)
        if not value.isdecimal() or int(value[:4]) > IGNORED:
            problems.append(f"`{piece.strip()}` should be VALUE=CLASS with a value from 0 to 255, as 255=1")
        elif name == BY_TAG:
            by_tag.append(int(value))
        elif number is None or len(classes) < number != IGNORED:
            hint = did_you_mean(name, names) or f"; it is an id from 0 to {len(classes)}, a class name, or `{BY_TAG}`"
            problems.append(f"`{name}` is not a class{hint}")
        else:
            pairs[int(value)] = number
    found = MaskValues(tuple(sorted(pairs.items())), tuple(sorted(by_tag)))
    return found, [error("bad-classes", "data.mask_values", problem) for problem in problems]


def read_truth(
    path: Path,
    tags: Sequence[int],
    classes: int,
    values: MaskValues | None = None,
    *,
    size: tuple[int, int] | None = None,
    pixel_limit: int = PIXEL_LIMIT,
) -> npt.NDArray[np.uint8]:
    """Read the ground-truth mask of an image; the only way in which truth is read.

    Args:
        path: the file, as `read_mask` takes it.
        tags: class ids of the image.
        classes: C.
        values: which value is which class; None: the values are class ids.
        size: (H, W) that it must have; None for any.
        pixel_limit: a mask with more pixels is refused before it is decoded.

    Returns:
        class ids, uint8 (H, W): 0 background, 1..C the classes, 255 ignored.

    Raises:
        MaskError: as `read_mask`, or the mapping does not fit the image.
    """
    if not values:
        return read_mask(path, size=size, classes=classes, pixel_limit=pixel_limit)
    raw = read_mask(path, size=size, pixel_limit=pixel_limit, any_kind=True)
    try:
        mask = values.apply(raw, tags)
        wrong = values_that_are_no_class(mask, classes)
    except ValueError as reason:
        wrong = str(reason)
    if wrong:
        raise MaskError(one_line(f"{path}: {wrong}"), kind="mask-values", reason=wrong)
    return mask
