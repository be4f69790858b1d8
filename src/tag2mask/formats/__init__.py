"""Masks in the formats of other tools, and corrected masks back from them."""

from tag2mask.formats.export import FORMATS, Exported, export_masks
from tag2mask.formats.writer import ExportSettings

__all__ = ["FORMATS", "ExportSettings", "Exported", "export_masks"]
