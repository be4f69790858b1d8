"""Backbones: one file per family, and the registry."""
