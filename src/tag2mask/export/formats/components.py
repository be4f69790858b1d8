"""Regions of a mask for annotation formats: connected components, and the polygons around them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tag2mask.data.images import IGNORED

BoolMask = npt.NDArray[np.bool_]

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Right, down, left, up: (row, column); the next step is a right turn."""

_INSIDE = ((0, 0), (0, -1), (-1, -1), (-1, 0))
"""The pixel to the right of a step in each direction, relative to the corner where the step begins."""

_OUTSIDE = ((-1, 0), (0, 0), (0, -1), (-1, -1))
"""The pixel to its left."""


@dataclass(frozen=True)
class Region:
    """Pixels of one class that form one annotation: a connected component, or all of them.

    Attributes:
        class_id: 1..C.
        top: first row of the bounding box.
        left: first column of the bounding box.
        mask: bool (h, w), the pixels of the region within its bounding box.
    """

    class_id: int
    top: int
    left: int
    mask: BoolMask

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) in pixels."""
        height, width = self.mask.shape
        return self.left, self.top, width, height

    @property
    def window(self) -> tuple[slice, slice]:
        """The bounding box as an index of the full mask."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def full_mask(self, size: tuple[int, int]) -> BoolMask:
        """The region in a mask of full size, bool (H, W)."""
        full = np.zeros(size, dtype=np.bool_)
        full[self.window] = self.mask
        return full

    def components(self) -> Iterator["Region"]:
        """The 4-connected components, from the top."""
        numbers, _ = ndimage.label(self.mask)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            mask = numbers[rows, columns] == number
            yield Region(self.class_id, self.top + rows.start, self.left + columns.start, mask)

    def polygon(self) -> tuple[npt.NDArray[np.int64], int]:
        """The outer border of a single component.

        Returns:
            its corners as int64 (P, 2), (column, row) on the grid between pixels, clockwise: a filled polygon covers
            the component and its holes; and the number of pixels in its holes.
        """
        holes = ndimage.binary_fill_holes(self.mask, np.ones((3, 3))) & ~self.mask
        corners = np.array(_corners(self.mask), dtype=np.int64)[:, ::-1]
        return corners + np.array([self.left, self.top]), int(np.count_nonzero(holes))


def regions(mask: npt.NDArray[np.uint8], *, connected: bool) -> Iterator[Region]:
    """The regions of a mask by class, without background and 255.

    Args:
        mask: uint8 (H, W).
        connected: one region per 4-connected component; otherwise one per class.
    """
    for class_id in np.unique(mask).tolist():
        if class_id in (0, IGNORED):
            continue
        own = mask == class_id
        ((rows, columns),) = ndimage.find_objects(own.astype(np.int8))
        region = Region(class_id, rows.start, columns.start, own[rows, columns])
        yield from region.components() if connected else [region]


def _corners(mask: BoolMask) -> list[tuple[int, int]]:
    """The corners of the outer border, (row, column) on the grid between pixels.

    The walk keeps the component on its right. At a corner where two of its pixels touch, it turns right, so that the
    gap between them is outside.
    """
    on = np.pad(mask, 1).tolist()  # lists: single pixels of an array are slow to read
    start = row, column = 1, on[1].index(True)  # top left corner of the first pixel
    direction = 0
    found = [start]
    while True:
        row, column = row + _STEPS[direction][0], column + _STEPS[direction][1]
        for turn in (1, 0, 3):  # right, straight on, left
            step = (direction + turn) % 4
            inside, outside = _INSIDE[step], _OUTSIDE[step]
            if on[row + inside[0]][column + inside[1]] and not on[row + outside[0]][column + outside[1]]:
                break
        if step != direction:
            if (row, column) == start and step == 0:
                return [(y - 1, x - 1) for y, x in found]
            found.append((row, column))
        direction = step
