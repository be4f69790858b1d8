"""The command `doctor`, which has to work where the imports of other commands fail."""

import json
import os
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.cli.commands import COMMANDS

if TYPE_CHECKING:
    from tag2mask.runs.config import Config


def doctor(words: Sequence[str]) -> int:
    """Diagnose the machine and print the result.

    Args:
        words: the command line after `doctor`.

    Returns:
        0 if the default settings can run here, else 1.

    Raises:
        UsageError: the settings are wrong.
    """
    from tag2mask.doctor.diagnosis import diagnose

    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0":
        return 0  # under torchrun one process is enough
    if {"-h", "--help", "--help-all", "--print-config"} & {*words}:
        _settings(words)
        return 0
    as_json = "--json" in words
    show = (lambda line: None) if as_json else partial(print, flush=True)
    found = diagnose(lambda: _settings(words), Path(_out(words)), show)
    print(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if as_json else found.verdict())
    return 0 if found.sound else 1


def _out(words: Sequence[str]) -> str:
    """The value of ``--out``, whose disk is checked; found without importing the parser."""
    found = "."
    for word, following in zip_longest(words, words[1:], fillvalue="."):
        name, equals, value = word.partition("=")
        found = (value if equals else following) if name == "--out" else found
    return found


def _settings(words: Sequence[str]) -> "Config":
    from tag2mask.cli.parsing import parse
    from tag2mask.runs.config import Config

    parsed = parse("doctor", COMMANDS["doctor"], words)
    return Config() if parsed is None else parsed[1].config
