"""Refuses a built site whose pages fetch fonts, scripts, styles or pictures from elsewhere.

python docs/_site/no_requests.py SITE
"""

import re
import sys
from pathlib import Path

_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\"' >]+)"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|pre|icon|shortcut))[^>]*\bhref=[\"']?((?:https?:)?//[^\"' >]+)"
    r"|(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)",
    re.IGNORECASE,
)


def main() -> None:
    """Name every request; exit code 1 if there is one."""
    site = Path(sys.argv[1])
    pages = [path for path in sorted(site.rglob("*")) if path.suffix in (".html", ".css")]
    found = [
        f"{path.relative_to(site)}: {''.join(hit)}"
        for path in pages
        for hit in _FETCHED.findall(path.read_text(encoding="utf-8"))
    ]
    print("\n".join(found) or f"{len(pages)} pages and styles fetch nothing from elsewhere")
    sys.exit(bool(found) or not pages)


if __name__ == "__main__":
    main()
