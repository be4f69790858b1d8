"""The folders of a run that hold a file for each photograph."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

from tag2mask.errors import UsageError
from tag2mask.outputs.folder import ALONE, Folder, TarFolder, file_names, holds_tars
from tag2mask.outputs.series import FETCHED, put_out, writers
from tag2mask.outputs.settings import OutputSettings
from tag2mask.outputs.store import require_webdataset

_ALL = 1_000_000_000
"""As many tars as there are."""


class RunOutputs:
    """Opens the folders of a run as the settings say, and as they are found."""

    def __init__(self, root: Path, settings: OutputSettings | None = None, *, writer: str = ALONE) -> None:
        """Nothing is opened yet.

        Args:
            root: the run folder.
            settings: how new files are kept; single files if not given.
            writer: under which name this process writes tars; no other may do so at the same time.

        Raises:
            UsageError: there is a store, and what opens its URLs is not installed.
        """
        self.root, self.settings, self.writer = root, settings or OutputSettings(), writer
        if self.settings.url is not None:
            require_webdataset()
        self._folders: dict[tuple[str, bool], Folder] = {}

    def folder(self, name: str, *, at_random: bool = False) -> Folder:
        """A folder of files by photograph; a plain path where there are no tars and none are asked for.

        Args:
            name: relative to the run folder.
            at_random: it is read in random order, so that every tar that is fetched stays until it is closed.
        """
        path, key = self.root / name, (name, at_random)
        if key not in self._folders:
            settings = replace(self.settings, cached_tars=_ALL) if at_random else self.settings
            tars = settings.photographs_per_tar is not None or holds_tars(path)
            self._folders[key] = TarFolder(path, settings, writer=self.writer, prefix=name) if tars else path
        return self._folders[key]

    def close(self, *, send: bool) -> None:
        """End the tars that are written to, after a stage; what is opened next is as it is then.

        Args:
            send: whether finished tars go to the store.

        Raises:
            StoreError: a tar could not be sent; it is kept.
        """
        opened = {key: folder for key, folder in self._folders.items() if isinstance(folder, TarFolder)}
        self._folders = {}
        try:
            for (_, at_random), folder in opened.items():
                folder.close(send=send and not at_random)
        finally:
            for (_, at_random), folder in opened.items():
                folder.close(send=False)
                if at_random:
                    put_out(folder.tars / FETCHED, self.settings.cached_tars)


def found_folder(path: Path, settings: OutputSettings | None = None) -> Folder:
    """A folder that somebody names, to be read: of single files, of a run's tars, or of ``NAME-000000.tar`` alone.

    Args:
        path: of the folder.
        settings: from which URL the tars of this folder are read, where they are in a store.

    Raises:
        UsageError: it holds nothing but tars with other names.
    """
    given = settings or OutputSettings()
    reading = replace(given, photographs_per_tar=None, url=None, read_url=given.read_url or given.url)
    if holds_tars(path):
        return TarFolder(path, reading)
    names = [found.name for found in path.glob("*.tar") if not found.name.startswith(".")]
    if not names or next(chain(file_names(path, ".png"), file_names(path, ".npz")), None) is not None:
        return path
    if not writers(names, foreign=True):
        raise UsageError(f"{path / min(names)}: a tar of masks or CAMs should be named as NAME-000000.tar; rename it")
    return TarFolder(path, reading, tars=path)
