"""Masks in the formats of other tools, and corrected masks back from them."""

from tag2mask.formats.export import FORMATS, Exported, export_masks
from tag2mask.formats.record import MaskRecord, checked_id
from tag2mask.formats.settings import ExportSettings

__all__ = ["FORMATS", "ExportSettings", "Exported", "MaskRecord", "checked_id", "export_masks"]
