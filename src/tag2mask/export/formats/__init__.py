"""Masks in the formats of other tools, and corrected masks back from them."""

from tag2mask.export.formats.base import ExportSettings
from tag2mask.export.formats.registry import FORMATS, Exported, export_masks

__all__ = ["FORMATS", "ExportSettings", "Exported", "export_masks"]
