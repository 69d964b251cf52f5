"""Markdown tables and paragraphs."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill


def rows(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a table of two columns without a header."""
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in pairs)])


def wrap(text: str) -> str:
    """Wrap a paragraph at 118 characters."""
    return fill(text, 118, break_long_words=False, break_on_hyphens=False)
