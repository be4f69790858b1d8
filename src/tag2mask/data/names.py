"""Names as they are compared: in Unicode NFC, whatever the file system or the spreadsheet wrote."""

import os
from functools import lru_cache
from unicodedata import normalize


def nfc(name: str) -> str:
    """``name`` in Unicode NFC; macOS writes names of files in NFD, in which an accent is a character of its own."""
    return name if name.isascii() else normalize("NFC", name)


def on_disk(path: str) -> str:
    """``path`` as it is spelt on disk: the file whose name is the same in NFC, or ``path`` itself if there is none.

    ASCII paths and paths that exist are returned without a further look.
    """
    if path.isascii() or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if not name or folder == path:
        return path
    folder = on_disk(folder)
    return os.path.join(folder, _spellings(folder).get(nfc(name), name))  # noqa: PTH118 - a string in, a string out


@lru_cache(maxsize=64)
def _spellings(folder: str) -> dict[str, str]:
    """The names in a folder that are not in NFC, by their NFC form, and those that are, where a name is not ASCII."""
    try:
        names = sorted(name for name in os.listdir(folder or ".") if not name.isascii())  # noqa: PTH208
    except OSError:
        return {}
    return {nfc(name): name for name in names}
