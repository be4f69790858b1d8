"""Masks in the formats of other tools, and corrected masks back from them."""

from tag2mask.export.formats.base import ExportSettings
from tag2mask.export.formats.registry import FORMATS, ExchangeResult, export_masks

__all__ = ["FORMATS", "ExchangeResult", "ExportSettings", "export_masks"]
