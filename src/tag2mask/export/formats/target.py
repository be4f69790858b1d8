"""The target of an export: a folder or a zip that is complete or does not exist."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from tag2mask.core.errors import UsageError
from tag2mask.core.files import (
    atomic_path,
    naming_full_disk,
    remove_partial_of,
    temporary_name,
    write_json,
)
from tag2mask.data.file_names import EXPORT_RECORD as RECORD


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuse to overwrite other files.

    Args:
        out: the folder, or a name that ends in .zip.
        overwrite: replace an earlier export.

    Raises:
        UsageError: there are files that no export wrote, or an earlier export without ``overwrite``.
    """
    if out.suffix == ".zip":
        if out.is_dir() or (out.exists() and not overwrite):
            raise UsageError(f"--out {out} exists already; use another one, or --overwrite to replace that file")
        return
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"--out {out} is a file or a link; it should name a new folder or a .zip")
    if out.is_dir() and os.path.ismount(out):
        raise UsageError(f"--out {out} is a mount point, which cannot be replaced; name a folder inside it")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / RECORD).is_file():
        raise UsageError(f"--out {out} contains files that no export wrote; use a new folder")
    if not overwrite:
        raise UsageError(f"--out {out} is an earlier export; use another one, or --overwrite to replace it")


@contextmanager
def atomic_target(out: Path, record: dict[str, object], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder next to ``out``, which becomes ``out`` if the block ends without an exception.

    Arguments and errors as in `check_target`, and:

    Args:
        record: content of `RECORD`, read when the block ends; not written to a zip.
    """
    check_target(out, overwrite=overwrite)
    out = Path(os.path.abspath(out))  # noqa: PTH100 - `.` has no name
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / temporary_name(out.name)
    folder.mkdir()
    try:
        with naming_full_disk(out):
            yield folder
            if out.suffix == ".zip":
                with atomic_path(out) as temporary:
                    _pack(folder, temporary)
            else:
                write_json(folder / RECORD, record)
                _put(folder, out)
        # Only now: an earlier export that a killed command had moved away may be the only one.
        remove_partial_of(out)
    finally:
        rmtree(folder, ignore_errors=True)


def _put(folder: Path, out: Path) -> None:
    """Rename the folder to ``out`` and delete an earlier export."""
    if not out.is_dir():
        folder.rename(out)
        return
    before = out.parent / temporary_name(out.name)
    out.rename(before)
    try:
        folder.rename(out)
    except OSError:
        before.rename(out)
        raise
    rmtree(before)


def _pack(folder: Path, target: Path) -> None:
    """Zip all files; only text is compressed."""
    with zipfile.ZipFile(target, "w", strict_timestamps=False) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                text = path.suffix in (".txt", ".json", ".xml", ".yaml")
                method = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
                archive.write(path, path.relative_to(folder).as_posix(), method)
