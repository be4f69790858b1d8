"""Changes the pages' HTML while the site is built: equations, abbreviations, empty headers of tables."""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_ABBREVIATION = re.compile(r'<abbr title="[^"]*">([^<]*)</abbr>')


def on_page_content(html: str, **_: Any) -> str:
    """The page with MathML for TeX, which browsers do not show, and a tooltip at the first use of an abbreviation."""
    seen = set[str]()

    def first(found: re.Match[str]) -> str:
        if found[1] in seen:
            return found[1]
        seen.add(found[1])
        return found[0]

    html = html.replace("<th></th>", "<td></td>")  # as a header names something
    return _ABBREVIATION.sub(first, _EQUATION.sub(_mathml, html))


def _mathml(found: re.Match[str]) -> str:
    tex = unescape(found[2])
    math = str(convert(tex, display="inline" if found[1] == "span" else "block"))
    if "\\" in unescape(math):
        raise ValueError(f"latex2mathml does not know a command of {tex}; write it with others")
    return math if found[1] == "span" else f'<div class="equation">{math}</div>'
