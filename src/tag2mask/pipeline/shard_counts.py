"""Counts that the shards of `evaluate` keep in a run folder, and whether they are still those of the files there.

::

    RUN/evaluate/STAGE/SPLIT/KIND/2-of-4.npz
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet
from tag2mask.evaluate.figures import Counts, read_counts, write_counts
from tag2mask.pipeline.run_folder import RunFolder


@dataclass(frozen=True)
class Target:
    """A folder of the run that is measured.

    Attributes:
        stage: under which its figures are kept.
        split: likewise.
        kind: likewise.
        folder: holds a mask or a CAM file for each photograph, named by its ID.
    """

    stage: str
    split: str
    kind: str
    folder: Path

    @property
    def holds_cams(self) -> bool:
        """Whether its files are CAM files, not masks."""
        return self.stage in ("seeds", "cams")

    def file(self, photo: Photo) -> Path:
        """The photograph's file."""
        return self.folder / f"{photo.id}{'.npz' if self.holds_cams else '.png'}"


@dataclass(frozen=True)
class ShardCounts:
    """The counts of a target, a file a shard.

    Attributes:
        run: the run folder.
        target: what is measured.
        photos: all photographs with ground truth; shard i of n has every n-th from the i-th on.
        thresholds: background thresholds of CAMs without a background map.
    """

    run: RunFolder
    target: Target
    photos: PhotoSet
    thresholds: Sequence[float]

    def part(self, number: int, shards: int) -> PhotoSet:
        """The photographs of a shard."""
        return self.photos.of(self.photos.photos[number - 1 :: shards])

    def state(self, number: int, shards: int) -> str:
        """A digest of which files a shard measures, how large they are and when they were written."""
        digest = hashlib.sha256(repr(self.photos.mask_values).encode())
        for photo in self.part(number, shards).photos:
            files: tuple[Path, Path | None] = (self.target.file(photo), photo.mask)
            digest.update(repr((photo.id, *(None if file is None else _stamp(file) for file in files))).encode())
        return digest.hexdigest()

    def write(self, number: int, shards: int, counts: Counts, state: str) -> None:
        """Keep the counts of a shard, whose files were in this state."""
        write_counts(self._path(number, shards), counts, {**self._settings(), "state": state})

    def merged(self) -> tuple[Counts | None, str]:
        """The counts of all shards if they are all there and current; and what is worth telling, if anything is."""
        dealt = {path.stem.partition("-of-")[2] for path in self._folder.glob("*-of-*.npz")}
        reason = ""
        for shards in sorted(int(count) for count in dealt if count.isdecimal()):
            total = Counts(len(self.photos.classes) + 1, self.thresholds if self.target.holds_cams else None)
            reason = ""
            for number in range(1, shards + 1):
                found = self._current(number, shards)
                if isinstance(found, str):
                    reason = f"shard {number}/{shards} {found}, so everything is measured here"
                    break
                total.merge(found)
            if not reason:
                return total, f"put together from the counts of {shards} shards"
        return None, reason

    def _current(self, number: int, shards: int) -> Counts | str:
        """The counts of a shard, or why they cannot be used."""
        path = self._path(number, shards)
        if not path.is_file():
            return "is missing"
        kept = read_counts(path)
        if kept is None:
            return f"is damaged ({path})"
        counts, measured = kept
        state = measured.pop("state", None)
        if measured != self._settings():
            return "was measured with other settings"
        return counts if state == self.state(number, shards) else "measured other files than those that are there now"

    def _settings(self) -> dict[str, Any]:
        """What the counts depend on besides the files."""
        thresholds = {"thresholds": list(self.thresholds)} if self.target.holds_cams else {}
        return {"version": 1, "classes": list(self.photos.classes), **thresholds}

    @property
    def _folder(self) -> Path:
        return self.run / "evaluate" / self.target.stage / self.target.split / self.target.kind

    def _path(self, number: int, shards: int) -> Path:
        return self._folder / f"{number}-of-{shards}.npz"


def _stamp(path: Path) -> tuple[int, int] | None:
    """The size of a file in bytes, and when it was written; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
