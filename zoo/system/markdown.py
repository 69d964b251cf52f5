"""Write texts of a file, names above all, into Markdown: as they are shown, and never as markup."""

from __future__ import annotations

import re
from html import escape

from zoo.system.terminal import printable

_MARKUP = re.compile(r"([\\`*\[\]|~])")
_LINKS = re.compile(r"(://|www\.|@)", re.IGNORECASE)  # of which GitHub and others make links


def markdown_text(text: str) -> str:
    r"""Return ``text`` for a paragraph or a table's cell: HTML, links, emphasis and control characters are escaped.

    ``_`` stays, because inside a word it is no emphasis and names are full of it.
    """
    shown = _MARKUP.sub(r"\\\1", escape(printable(text), quote=False))
    return _LINKS.sub(lambda found: "".join(f"&#{ord(c)};" if c in ":.@" else c for c in found[0]), shown)
