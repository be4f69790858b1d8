"""Masks and images as WebDataset shards: tar files for training elsewhere."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, cast

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.data.images import write_mask
from tag2mask.export.formats.base import ExportSettings, Writer
from tag2mask.export.formats.record import BACKGROUND, MaskRecord


class ShardsWriter(Writer):
    """Tar files for `webdataset`, each of up to `per_shard` samples.

    ::

        SPLIT-000000.tar
          KEY.png          the mask
          KEY.json         {"id": ID, "size": [H, W]}
          KEY.jpg          the unchanged image file with its own suffix; only with --images copy
        classes.json       the class list, background first

    KEY is the ID, with `.` and `%` in its last part written as `%2E` and `%25`: a key ends at its first dot. The tar
    files are written to `store`, any URL that `fsspec` opens for writing, if one is given.
    """

    options = frozenset({"images", "per_shard", "store"})

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin.

        Raises:
            UsageError: webdataset is not installed, links are wanted, or the URL cannot be opened.
        """
        super().__init__(folder, classes, settings)
        if find_spec("webdataset") is None:
            raise UsageError("export shards needs webdataset; pip install 'tag2mask[shards]'")
        if self.images not in ("none", "copy"):
            raise UsageError("export shards: --images should be none or copy, a shard holds no links")
        from webdataset import ShardWriter

        place = str(folder) if settings.store is None else settings.store.rstrip("/")
        pattern = f"{place.replace('%', '%%')}/{settings.split.replace('%', '%%')}-%06d.tar"
        with _named(place):
            self._shards = ShardWriter(
                pattern, maxcount=settings.per_shard, verbose=0, opener=_opened, encoder=False, mtime=0.0
            )
        self._scratch = folder / ".mask.png"

    def add(self, record: MaskRecord) -> None:
        """Write a sample."""
        head, slash, last = record.id.rpartition("/")
        write_mask(self._scratch, record.mask)
        sample: dict[str, object] = {
            "__key__": head + slash + last.replace("%", "%25").replace(".", "%2E"),
            "png": self._scratch.read_bytes(),
            "json": json.dumps({"id": record.id, "size": list(record.size)}).encode(),
        }
        if self.images == "copy" and record.image is not None:
            suffix = record.image.suffix.lower().lstrip(".")
            sample["image.png" if suffix == "png" else suffix] = record.image.read_bytes()
        with _named(self._shards.fname):
            self._shards.write(sample)

    def finish(self) -> None:
        """End the last tar file, and write the class list."""
        with _named(self._shards.fname):
            self._shards.close()
        with self.open_text("classes.json") as file:
            json.dump([BACKGROUND, *self.classes], file, ensure_ascii=False)
        if self.settings.store is not None:
            self.notes.append(f"the tars are in {self.settings.store}")

    def close(self) -> None:
        """Close the open tar file, also after an exception; files in a store stay there."""
        with suppress(Exception):  # closed already, or the store fails, which the error names
            self._shards.close()
        self._scratch.unlink(missing_ok=True)


def _opened(name: str) -> IO[bytes]:
    """A file, or an object in a store, to write to."""
    import fsspec

    return cast("IO[bytes]", fsspec.open(name, "wb").open() if "://" in name else Path(name).open("wb"))


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Turn any error of a store into one that names it."""
    try:
        yield
    except (Tag2maskError, KeyboardInterrupt):
        raise
    except Exception as reason:  # each kind of store has its own errors
        raise Tag2maskError(f"{place} could not be written to ({' '.join(str(reason).split())})") from reason
