"""Print lines that may quote a file: its name, a text in it, another library's message about it.

Commands print through this module only (ruff's T201 says so): a control character in a file's name could move the
cursor, set the terminal's title, or make one line look like two.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
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


def print_wrapped(head: str, text: str) -> None:
    """Print a line, cut at words after 100 characters, or a narrower terminal's; what follows stands below the text."""
    below = " " * len(head)
    width = min(100, max(40, shutil.get_terminal_size().columns)) if sys.stdout.isatty() else 100
    for line in textwrap.wrap(text, width, initial_indent=head, subsequent_indent=below, break_on_hyphens=False):
        print_line(line)
