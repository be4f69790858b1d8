"""The exceptions of the project, and text for messages."""

from collections.abc import Iterable


class Tag2maskError(Exception):
    """A failure. The message names the thing, the rule and the remedy; the exit code is 1."""

    exit_code = 1


class Interrupted(Tag2maskError):
    """The user stopped a training, which has saved its state."""


class UsageError(Tag2maskError, ValueError):
    """Wrong use: a setting, an argument or a data set; the exit code is 2."""

    exit_code = 2


def printable(text: str, keep: str = "\n") -> str:
    """``text`` with every unprintable character (file names may hold some) escaped, except those in ``keep``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii") for char in text
    )


def first_five(names: Iterable[object]) -> str:
    """The first five offenders of an error and the count of the rest: ``"a, b, c, d, e and 7 more"``."""
    listed = [str(name) for name in names]
    shown = ", ".join(listed[:5])
    return shown if len(listed) <= 5 else f"{shown} and {len(listed) - 5} more"
