"""Print lines that may quote a file: its name, a text in it, another library's message about it.

Commands print through this module only (ruff's T201 says so): a control character in a file's name could move the
cursor, set the terminal's title, or make one line look like two.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import TextIO

from zoo.errors import without_secrets


def printable(text: object) -> str:
    r"""Return ``str(text)`` with what is no visible character or space escaped as Python does: ``\x1b``, ``\n``.

    Escaped are control and format characters (direction marks too), line separators, lone surrogates (bytes of a file's
    name that are no UTF-8) and unassigned code points.
    """
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in str(text))


def print_line(text: object, *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print one line, escaped by ``printable``; URLs lose login and query.

    Args:
        file: output; ``None`` is stdout.
        flush: hand it to the operating system at once.
    """
    print(printable(without_secrets(str(text))), file=file or sys.stdout, flush=flush)


def print_json(value: object) -> None:
    """Print a JSON document on stdout, indented; what is not ASCII is escaped in it."""
    print(json.dumps(value, indent=1).replace("\x7f", "\\u007f"))
