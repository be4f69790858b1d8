"""``python -m tag2mask``, as `torchrun` wants it."""

from tag2mask.cli import script

script()
