"""The folders of a run that hold a file for each photograph."""

from pathlib import Path

from tag2mask.outputs.folder import ALONE, TARS, Folder, TarFolder
from tag2mask.outputs.settings import OutputSettings
from tag2mask.outputs.store import require_webdataset


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
        self._folders: dict[str, TarFolder] = {}

    def folder(self, name: str) -> Folder:
        """A folder of files by photograph; a plain path where there are no tars and none are asked for.

        Args:
            name: relative to the run folder.
        """
        path = self.root / name
        if name not in self._folders:
            if self.settings.photographs_per_tar is None and not (path / TARS).is_dir():
                return path
            self._folders[name] = TarFolder(path, self.settings, writer=self.writer, prefix=name)
        return self._folders[name]

    def close(self, *, send: bool) -> None:
        """End the tars that are written to, after a stage; what is opened next is as it is then.

        Args:
            send: whether finished tars go to the store.

        Raises:
            StoreError: a tar could not be sent; it is kept.
        """
        folders, self._folders = self._folders, {}
        try:
            for folder in folders.values():
                folder.close(send=send)
        finally:
            for folder in folders.values():
                folder.close(send=False)


def found_folder(path: Path) -> Folder:
    """A folder that somebody names: of single files, of a run's tars, or of tars ``NAME-000000.tar`` alone."""
    if (path / TARS).is_dir():
        return TarFolder(path, OutputSettings())
    if next(path.glob("*.tar"), None) is not None:
        return TarFolder(path, OutputSettings(), tars=path)
    return path
