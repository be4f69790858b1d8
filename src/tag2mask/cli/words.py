"""Words of the command line before they are parsed."""

from collections.abc import Sequence


def last_value(words: Sequence[str], option: str) -> str | None:
    """The last value of an option among the words, which is the one that counts; None without one."""
    found = None
    for place, word in enumerate(words):
        if word == option and place + 1 < len(words):
            found = words[place + 1]
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found
