"""Masks and images as WebDataset shards: tar files for training with other tools."""

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

    KEY is the ID, with `.` and `%` in its last part written as `%2E` and `%25`, since a key ends at its first dot. With
    `store`, the tar files go to a URL that `fsspec` opens for writing.
    """

    options = frozenset({"images", "per_shard", "store"})

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Open the first tar file.

        Raises:
            UsageError: webdataset is not installed, or the settings ask for links.
            Tag2maskError: the URL cannot be opened.
        """
        super().__init__(folder, classes, settings)
        if find_spec("webdataset") is None:
            raise UsageError("export shards needs webdataset; pip install 'tag2mask[shards]'")
        if self.images not in ("none", "copy"):
            raise UsageError("export shards: --images should be none or copy, since a shard holds no links")
        from webdataset import ShardWriter

        target = str(folder) if settings.store is None else settings.store.rstrip("/")
        pattern = f"{target.replace('%', '%%')}/{settings.split.replace('%', '%%')}-%06d.tar"
        with _store_errors(target):
            self._shards = ShardWriter(
                pattern, maxcount=settings.per_shard, verbose=0, opener=_open, encoder=False, mtime=0.0
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
        with _store_errors(self._shards.fname):
            self._shards.write(sample)

    def finish(self) -> None:
        """End the last tar file, and write the class list."""
        with _store_errors(self._shards.fname):
            self._shards.close()
        with self.open_text("classes.json") as file:
            json.dump([BACKGROUND, *self.classes], file, ensure_ascii=False)
        if self.settings.store is not None:
            self.notes.append(f"the tars are in {self.settings.store}")

    def close(self) -> None:
        """Close the open tar file, also after an exception; files in a store remain."""
        with suppress(Exception):  # closed already, or the store fails, which `finish` or `add` has reported
            self._shards.close()
        self._scratch.unlink(missing_ok=True)


def _open(name: str) -> IO[bytes]:
    """A file or an object in a store, open for writing."""
    import fsspec

    return cast("IO[bytes]", fsspec.open(name, "wb").open() if "://" in name else Path(name).open("wb"))


@contextmanager
def _store_errors(name: str) -> Iterator[None]:
    """Turn any error of a store into one that names the file."""
    try:
        yield
    except (Tag2maskError, KeyboardInterrupt):
        raise
    except Exception as reason:  # each store has its own errors
        raise Tag2maskError(f"{name} could not be written to ({' '.join(str(reason).split())})") from reason
