"""Links of the pages as the code's host shows them, made to work in the site too."""

import posixpath
import re
from typing import Any

_MENTION = re.compile(r"(?<![\w/\[(`.])docs/([a-z-]+)\.md(?![\w`\])])")
_LINK = re.compile(r"\[([^\]\n]*)\]\(((?!https?:|mailto:|#)[^)\s]+)\)")
_BLOCK = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`[^`\n]+`)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Everything but code, with links that hold in the site."""
    folder = posixpath.dirname(page.file.src_uri)
    parts = _BLOCK.split(markdown)
    return "".join(part if number % 2 else _linked(part, folder) for number, part in enumerate(parts))


def _linked(text: str, folder: str) -> str:
    """Text without blocks of code; what stands in inline code stays."""
    parts = _CODE.split(text)
    known = "".join(part if number % 2 else _mentions(part, folder) for number, part in enumerate(parts))
    return _LINK.sub(lambda found: _inside(found, folder), known)


def _mentions(text: str, folder: str) -> str:
    """`docs/NAME.md` in running text becomes a link to that page, which the strict build then follows."""
    return _MENTION.sub(lambda found: f"[{found[1]}]({posixpath.relpath(f'{found[1]}.md', folder or '.')})", text)


def _inside(found: re.Match[str], folder: str) -> str:
    """A link as it is; one that leaves the docs, which the site does not hold, as the path alone."""
    path, hash_mark, anchor = found[2].partition("#")
    target = posixpath.normpath(posixpath.join(folder, path))
    if target.startswith("../"):
        return f"{found[1]} (`{target.removeprefix('../')}`)"
    page = re.sub(r"\.ipynb$", ".md", path)  # the site shows a notebook as the page that it became
    return f"[{found[1]}]({page}{hash_mark}{anchor})"
