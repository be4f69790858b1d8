"""The manifest: one row per image of a data set, which stages, workers and processes map into memory."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tag2mask.data.photo import HeldPhotos, Photo, Places
from tag2mask.data.row_files import RowFile, RowWriter

MANIFEST = "data.arrow"
"""The manifest of a run folder."""

HELD = 1 << 13
"""Images of a set of at most so many are made once and held, 300 bytes each."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("tags", pa.list_(pa.int32())),
        ("splits", pa.string()),
        ("mask", pa.string()),
    ]
)


class ManifestWriter(RowWriter):
    """Writes a manifest."""

    def __init__(self) -> None:
        """Begin with no image."""
        super().__init__(_SCHEMA)


class Manifest:
    """The images of a data set, or of a split of it, in order.

    Attributes:
        rows: columns ``id``, ``image`` (path), ``tags`` (class ids 1..C in ascending order), ``splits`` (names joined
            by `;`) and ``mask`` (path of the ground truth; null without).
        path: the file, where it has a name.
    """

    def __init__(self, rows: RowFile, path: Path | None = None) -> None:
        """Read rows that are mapped."""
        self.rows, self.path = rows, path
        self._sizes: npt.NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
        self._held: list[Photo] = []

    @classmethod
    def open(cls, path: Path) -> "Manifest":
        """Map a manifest that was saved.

        Raises:
            OSError: it is not there.
            pa.ArrowInvalid: it is damaged.
        """
        with path.open("rb") as file:
            return cls(RowFile(file), path)

    def saved(self, path: Path) -> "Manifest":
        """The same, written to a file that other processes can map."""
        self.rows.save(path)
        return Manifest.open(path)

    def __len__(self) -> int:
        """How many images."""
        return len(self.rows)

    def read(self, places: Places) -> list[Photo]:
        """Those at these places, in the order of ``places``."""
        if len(self) > HELD:
            return self._made(places)
        self._held = self._held or self._made(range(len(self)))
        return [self._held[place] for place in places]

    def sizes(self, places: Places) -> npt.NDArray[np.int64]:
        """height << 32 | width of those that were measured, 0 of the others."""
        return self._sizes[places]

    def keep_sizes(self, places: Places, sizes: npt.NDArray[np.int64]) -> None:
        """Remember what was measured."""
        self._sizes[places] = sizes

    def _made(self, places: Places) -> list[Photo]:
        return list(map(Photo, *self.rows.columns(places, ("id", "image", "tags", "mask", "splits"))))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Travel to another process by the name of the file, or, without one, as a list."""
        if self.path is not None:
            return Manifest.open, (self.path,)
        return HeldPhotos, (tuple(self.read(range(len(self)))),)
