"""The verb `doctor`, which works where other verbs cannot even be imported."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.cli.words import last_value

if TYPE_CHECKING:
    from tag2mask.pipeline.config import Config

DESCRIPTION = "Is this machine sound? Versions, devices, memory, weights, and what each stage lacks."


def doctor(words: Sequence[str]) -> int:
    """`doctor`: look at the machine and say so.

    Args:
        words: after the verb.

    Returns:
        0 if the usual path works, else 1.

    Raises:
        UsageError: the settings are wrong.
    """
    from tag2mask.doctor.diagnosis import diagnose

    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0":
        return 0  # of several processes of torchrun one is enough
    if "-h" in words or "--help" in words:
        _settings(words)
        return 0
    found = diagnose(lambda: _settings(words), Path(last_value(words, "--out") or "."))
    print(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if "--json" in words else found.render())
    return 0 if found.sound else 1


def _settings(words: Sequence[str]) -> "Config":
    """The settings that the words ask for."""
    from tag2mask.cli.request import Request, Verb
    from tag2mask.pipeline.config import Config

    request = Request.parse("doctor", Verb(DESCRIPTION, lambda request: 0), words)
    return Config() if request is None else request.config
