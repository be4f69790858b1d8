"""The pieces of a mask for formats of objects: connected components, and the polygons around them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tag2mask.data.images import IGNORED

Covered = npt.NDArray[np.bool_]

_AROUND = np.ones((3, 3), dtype=np.bool_)

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Right, down, left, up: (row, column). Walking them in this order turns right."""

_INSIDE = ((0, 0), (0, -1), (-1, -1), (-1, 0))
"""From a corner of the grid, the pixel to the right of a step in each direction."""

_OUTSIDE = ((-1, 0), (0, 0), (0, -1), (-1, -1))
"""And the pixel to its left."""


@dataclass(frozen=True)
class Piece:
    """A part of a mask that is one annotation.

    Attributes:
        class_id: 1..C.
        top: first row of the bounding box.
        left: first column of it.
        covered: bool (h, w), the pixels of the piece within its bounding box.
    """

    class_id: int
    top: int
    left: int
    covered: Covered

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.covered))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) in pixels."""
        height, width = self.covered.shape
        return self.left, self.top, width, height

    def full(self, size: tuple[int, int]) -> Covered:
        """The piece at the size of the mask, bool (H, W)."""
        whole = np.zeros(size, dtype=np.bool_)
        height, width = self.covered.shape
        whole[self.top : self.top + height, self.left : self.left + width] = self.covered
        return whole

    def components(self) -> Iterator["Piece"]:
        """Its 4-connected components, from the top."""
        numbers, _ = ndimage.label(self.covered)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            covered = numbers[rows, columns] == number
            yield Piece(self.class_id, self.top + rows.start, self.left + columns.start, covered)

    def outline(self) -> tuple[npt.NDArray[np.int64], int]:
        """The outer border of a single component.

        Returns:
            its corners as int64 (P, 2), (column, row) on the grid between pixels, clockwise: filled, they give the
            component and its holes; and the number of pixels in its holes.
        """
        holes = np.count_nonzero(ndimage.binary_fill_holes(self.covered, _AROUND) & ~self.covered)
        corners = np.array(_corners(self.covered), dtype=np.int64)[:, ::-1]
        return corners + np.array([self.left, self.top]), int(holes)


def pieces(mask: npt.NDArray[np.uint8], *, components: bool) -> Iterator[Piece]:
    """The pieces of a mask by class, without background and 255.

    Args:
        mask: uint8 (H, W).
        components: one piece per 4-connected component; otherwise one per class.
    """
    for class_id in np.unique(mask).tolist():
        if class_id in (0, IGNORED):
            continue
        covered = mask == class_id
        ((rows, columns),) = ndimage.find_objects(covered.astype(np.int8))
        whole = Piece(class_id, rows.start, columns.start, covered[rows, columns])
        yield from whole.components() if components else [whole]


def _corners(covered: Covered) -> list[tuple[int, int]]:
    """The corners of the outer border, (row, column) on the grid between pixels.

    The walk keeps the component on its right. Where two of its pixels meet only at a corner, it stays with the
    current one, so that the gap between them is outside.
    """
    on = np.pad(covered, 1).tolist()  # lists: single pixels of an array are slow to read
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
