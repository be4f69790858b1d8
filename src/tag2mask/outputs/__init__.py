"""The files that stages write for each photograph: single ones, or members of tars that WebDataset reads."""

from tag2mask.outputs.folder import File, Folder, TarFolder, TarMember, file_names, write_bytes
from tag2mask.outputs.run_outputs import RunOutputs, found_folder
from tag2mask.outputs.settings import OutputSettings

__all__ = [
    "File",
    "Folder",
    "OutputSettings",
    "RunOutputs",
    "TarFolder",
    "TarMember",
    "file_names",
    "found_folder",
    "write_bytes",
]
