"""The items of a JSON list one after another, so that a large file is never held."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tag2mask.errors import Tag2maskError, UsageError

ITEM_CHARACTERS = 1 << 28
"""What one item may take."""

_CHUNK = 1 << 20
_BLANK = " \t\r\n"


def json_items(path: Path) -> Iterator[Any]:
    """The items of the list that a JSON file holds, in order.

    Raises:
        UsageError: there is no such file.
        Tag2maskError: it is no JSON list, ends early, or has an item of more than `ITEM_CHARACTERS`.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give the JSON file that the tool exported")
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _items(file)
    except (ValueError, RecursionError) as error:
        raise Tag2maskError(f"{path} is no JSON list, or a damaged one ({error}); export it again as JSON") from error


def _items(file: IO[str]) -> Iterator[Any]:
    """The same of an open file.

    Raises:
        ValueError: it is no JSON list.
    """
    decoder, text, wanted = json.JSONDecoder(), "", "["
    while True:
        text = text.lstrip(_BLANK) or _more(file, _CHUNK).lstrip(_BLANK)
        if not text:
            continue
        if wanted == "[":
            if text[0] != "[":
                raise ValueError("it does not begin with [")
            text, wanted = text[1:], "first"
        elif text[0] == "]" and wanted != "item":
            if (text[1:] + file.read(_CHUNK)).strip(_BLANK):
                raise ValueError("something follows the list")
            return
        elif wanted == ",":
            if text[0] != ",":
                raise ValueError("a comma is missing")
            text, wanted = text[1:], "item"
        else:
            item, text = _item(decoder, text, file)
            wanted = ","
            yield item


def _item(decoder: json.JSONDecoder, text: str, file: IO[str]) -> tuple[Any, str]:
    """The item at the beginning of ``text``, of which as much is read as it takes, and what is behind it."""
    step = _CHUNK
    while True:
        try:
            item, end = decoder.raw_decode(text)
            if end < len(text):  # else a number may go on
                return item, text[end:]
        except ValueError:
            pass
        if len(text) > ITEM_CHARACTERS:
            raise ValueError("an item is too long, or damaged")
        text += _more(file, step)
        step *= 2  # else a long item would be looked at as often as it has chunks


def _more(file: IO[str], count: int) -> str:
    text = file.read(count)
    if not text:
        raise ValueError("it ends too early")
    return text
