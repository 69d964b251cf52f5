"""What ``zoo index`` and ``zoo search`` print."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.search.collection import Collection
from zoo.search.query import Answer


def print_index(told: dict[str, Any], out: Path) -> None:
    """One or two lines: size, kind, recall, what was left out."""
    recall = told["recall"]
    how = (
        f"recall@{recall['at']} {recall['value']:.4f} against exact search, on {recall['sample']} of its images"
        if told["kind"] != "exact"
        else "searched exactly (recall 1)"
    )
    print(f"{out}: index of {told['indexed']} embeddings of {told['dim']} numbers, {told['kind']}; {how}")
    if told["left_out"]:
        print(f"left out: {told['left_out']} without an embedding (see the column status)", file=sys.stderr)


def print_answers(answers: Sequence[Answer]) -> None:
    """A table per query; queries that could not be read are lines on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    for answer in answers:
        if answer.error is None:
            table = Table(title=escape(_printable(answer.query)), title_justify="left", box=None, pad_edge=False)
            table.add_column("", justify="right")
            table.add_column("cosine", justify="right")
            table.add_column("path", overflow="fold")
            for place, neighbour in enumerate(answer.neighbours, 1):
                table.add_row(str(place), f"{neighbour.cosine:.4f}", escape(_printable(neighbour.item.name)))
            console.print(table)
    print_unreadable(answers)


def print_json(answers: Sequence[Answer], collection: Collection) -> None:
    """One JSON object on stdout."""
    shown = {
        "model": collection.model,
        "manifest_sha256": collection.sha256,
        "queries": [
            {"query": a.query, "error": a.error, "neighbours": [n.to_json() for n in a.neighbours]} for a in answers
        ],
    }
    print(json.dumps(shown, indent=1))
    print_unreadable(answers)


def print_unreadable(answers: Sequence[Answer]) -> None:
    """A line on stderr for each."""
    for answer in answers:
        if answer.error is not None:
            print(f"{_printable(answer.query)} cannot be read: {answer.error}", file=sys.stderr)


def _printable(name: str) -> str:
    """A file's name cannot move the cursor or change a terminal's title."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
