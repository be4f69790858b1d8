"""The origin of a file: recorded in the file itself, and compared by content.

A CAM file records its image and its base CAM, a mask its CAM file, a prediction its network, features their mask and
their CAM file. A mask that a user put into the folder records nothing; it is stale only if its CAM file is newer.
"""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.core.files import DAMAGED, is_newer

PNG_KEY = "made-from"
"""The keyword of the PNG text chunk with the origin of a mask."""

PREDICTION_KEY = "prediction"
"""The keyword of the chunk with the result of `predict` for the image, as JSON."""

UNKNOWN = "unknown"
"""A value of a fingerprint that cannot be found on this machine; it is not compared."""

_BLOCK = 1 << 20

_PNG_BEGIN, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def crc_of(path: Path) -> int:
    """CRC-32 of a file's content; an OSError if it cannot be read."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def image_origin(path: Path) -> npt.NDArray[np.int64] | None:
    """The record of an image: int64 (2,), its size in bytes and the CRC-32 of its content; None if it is missing."""
    try:
        return np.array([path.stat().st_size, crc_of(path)], dtype=np.int64)
    except OSError:
        return None


def is_of_image(recorded: npt.NDArray[np.int64] | None, image: Path, made: Path) -> bool:
    """Whether an image is the recorded one; True also without a record, and for a missing image, which readers report.

    To be fast, this reads the image only if it was written, renamed or copied after the file ``made``, which has the
    record (that of `image_origin`).
    """
    if recorded is None:
        return True
    try:
        status = image.stat()
        if status.st_size != recorded[0]:
            return False
        touched = max(status.st_mtime_ns, status.st_ctime_ns) >= made.stat().st_mtime_ns
        return not touched or crc_of(image) == recorded[1]
    except OSError:
        return True


def image_text(path: Path) -> str:
    """As `image_origin`, as text; empty if the image is missing."""
    recorded = image_origin(path)
    return "" if recorded is None else " ".join(str(int(value)) for value in recorded)


def is_of_image_text(recorded: str, image: Path, made: Path) -> bool:
    """As `is_of_image`, for the text of `image_text`."""
    if not recorded:
        return True
    words = recorded.split()
    if len(words) != len(("bytes", "CRC")) or not all(word.isdecimal() for word in words):
        return False
    return is_of_image(np.array([int(word) for word in words], dtype=np.int64), image, made)


def cam_origin(path: Path) -> str | None:
    """The record of a CAM file: a digest of its arrays, including the record of its image; None if unreadable."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted((each.filename, each.CRC) for each in archive.infolist())
    except DAMAGED:
        return None
    return f"{zlib.crc32(repr(members).encode()):08x}"


def mask_origin(path: Path) -> str | None:
    """The origin that a mask records; empty if it records none, None if it is missing, empty or cut off."""
    return mask_text(path, PNG_KEY)


def mask_text(path: Path, keyword: str) -> str | None:
    """A text chunk of a mask; empty if there is none, None if the mask is missing, empty or cut off."""
    try:
        content = path.read_bytes()
        if not content.strip(b"\0"):
            return None
        if not content.startswith(_PNG_BEGIN):
            return ""  # of another format, which readers of masks report
        if _PNG_END not in content[-_BLOCK:]:
            return None
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            return str(image.info.get(keyword, ""))
    except (OSError, ValueError, SyntaxError):
        return None


def is_mask_stale(mask: Path, source: Path, origin: str | None) -> bool:
    """Whether a mask is missing, damaged, or made from something else than the file ``source``.

    ``origin`` is the record of that file; None, if it cannot be read, keeps a mask that exists.
    """
    recorded = mask_origin(mask)
    if recorded is None:
        return True
    return is_newer(source, mask) if not recorded else origin is not None and recorded != origin
