"""Where an export goes: a folder or a zip that is there as a whole or not at all."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile, rmtree

from tag2mask.data.corrections import RECORD as DECISIONS
from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.files import atomic_path, temporary_name, write_json
from tag2mask.formats.settings import Images

RECORD = "tag2mask-export.json"
"""Lies in every folder that was written, and tells it from the folders of others."""


def refuse_target(out: Path, *, again: bool) -> None:
    """Refuse to write where something else is.

    Args:
        out: the folder, or a name that ends in .zip.
        again: an earlier export there is to be replaced.

    Raises:
        UsageError: there is something that no export wrote, or an export that is not to be replaced.
    """
    if out.suffix == ".zip":
        if out.is_dir() or (out.exists() and not again):
            raise UsageError(f"--out {out} is there already; use another one, or --again to replace that file")
        return
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"--out {out} is a file or a link; it should name a folder that is not there yet, or a .zip")
    if out.is_dir() and os.path.ismount(out):
        raise UsageError(f"--out {out} is where a disk is mounted, which cannot be replaced; name a folder inside it")
    if not out.is_dir() or not any(out.iterdir()):
        return
    _refuse_decisions(out, out)
    if not (out / RECORD).is_file():
        raise UsageError(f"--out {out} holds files that no export wrote; use a folder that is not there yet")
    if not again:
        raise UsageError(f"--out {out} is an earlier export; use another one, or --again to replace it")


@contextmanager
def whole_target(out: Path, record: dict[str, object], *, again: bool = False) -> Iterator[Path]:
    """Yield a folder to write to; when the block ends without an exception, it becomes ``out``.

    Until then it lies beside ``out`` under a temporary name; a kill leaves it there.

    Args:
        out: the folder, or a name that ends in .zip.
        record: what `RECORD` says; read when the block ends, and not put into a zip, which is for others.
        again: an earlier export there is replaced.

    Raises:
        UsageError: as `refuse_target`.
    """
    refuse_target(out, again=again)
    out = Path(os.path.abspath(out))  # noqa: PTH100 - `.` has no name to give; a link was refused, so none is followed
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / temporary_name(out.name)
    folder.mkdir()
    try:
        yield folder
        if out.suffix == ".zip":
            with atomic_path(out) as temporary:
                _pack(folder, temporary)
        else:
            write_json(folder / RECORD, record)
            _put(folder, out)
    finally:
        rmtree(folder, ignore_errors=True)


def place_image(image: Path, target: Path, how: Images) -> None:
    """Bring a photograph to its place.

    Raises:
        Tag2maskError: it could not be linked or copied.
    """
    if how == "none":
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if how == "copy":
            copyfile(image, target)
        elif how == "link":
            os.link(image.resolve(), target)
        else:
            target.symlink_to(image.resolve())
    except OSError as error:
        remedy = "; --images copy goes between disks" if how == "link" else ""
        raise Tag2maskError(f"{image} could not be brought to {target.name} ({error.strerror}){remedy}") from error


def _refuse_decisions(folder: Path, out: Path) -> None:
    """Refuse to replace the decisions in a folder, which is ``out``, or was.

    Raises:
        UsageError: there are some.
    """
    if (folder / DECISIONS).is_file():
        raise UsageError(
            f"--out {out} holds what people decided in a review ({DECISIONS}), which is never replaced; use another "
            "folder, and copy from it the masks ID.png that are to stand in the place of those there"
        )


def _put(folder: Path, out: Path) -> None:
    """Give the folder its name; an earlier one is deleted once it has lost that name.

    Raises:
        UsageError: a review of the earlier one began meanwhile.
    """
    if not out.is_dir():
        folder.rename(out)
        return
    before = out.parent / temporary_name(out.name)
    out.rename(before)
    try:
        _refuse_decisions(before, out)
        folder.rename(out)
    except (OSError, UsageError):
        before.rename(out)
        raise
    rmtree(before)


def _pack(folder: Path, target: Path) -> None:
    """A zip of all files; what is compressed already, as PNGs are, goes in as it is."""
    with zipfile.ZipFile(target, "w", strict_timestamps=False) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                text = path.suffix in (".txt", ".json", ".xml", ".yaml")
                how = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
                archive.write(path, path.relative_to(folder).as_posix(), how)
