"""The exceptions of the project: what a caller may catch and a user may read."""

from collections.abc import Iterable


class Tag2maskError(Exception):
    """Something could not be done. The message names the thing, the rule and the remedy; the exit code is 1."""

    exit_code = 1


class UsageError(Tag2maskError, ValueError):
    """The request itself is wrong (a setting, an argument, a data set); the exit code is 2."""

    exit_code = 2


def printable(text: str, keep: str = "\n") -> str:
    """``text`` that any terminal and any file can take: what is not printable, as file names may hold, is escaped.

    Args:
        text: of any characters, surrogates among them.
        keep: signs that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode("ascii") for sign in text
    )


def first_five(names: Iterable[object]) -> str:
    """The first five offenders, comma-separated, with the count of the rest.

    Args:
        names: what an error is about, in the order in which it was met.

    Returns:
        ``"a, b, c, d, e and 7 more"``.
    """
    listed = [str(name) for name in names]
    shown = ", ".join(listed[:5])
    return shown if len(listed) <= 5 else f"{shown} and {len(listed) - 5} more"
