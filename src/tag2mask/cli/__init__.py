"""The command line: ``tag2mask COMMAND``."""

from tag2mask.cli.main import main, script

__all__ = ["main", "script"]
