"""From CAMs to pseudo masks."""

from tag2mask.refine.argmax import argmax_mask

__all__ = ["argmax_mask"]
