"""Printed output of ``zoo index`` and ``zoo search``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.search.collection import Collection
from zoo.search.index_info import IndexInfo
from zoo.search.query import QueryResult
from zoo.system import terminal
from zoo.system.terminal import print_line, printable


def print_index(info: IndexInfo, out: Path) -> None:
    """Print the index's size, kind and recall; on stderr the number of images without embedding."""
    recall = info["recall"]
    accuracy = (
        f"recall@{recall['at']} {recall['value']:.4f} against exact search, on {recall['sample']} of its images"
        if info["kind"] != "exact"
        else "searched exactly (recall 1)"
    )
    print_line(f"{out}: index of {info['indexed']} embeddings of {info['dim']} numbers, {info['kind']}; {accuracy}")
    if info["left_out"]:
        print_line(f"left out: {info['left_out']} without an embedding (see the column status)", file=sys.stderr)


def print_results(results: Sequence[QueryResult], *, centred: bool) -> None:
    """Print a table of rank, cosine and path per query; unreadable queries go to stderr.

    Args:
        centred: whether the cosines are those of centred embeddings.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    # Unreadable queries get no table; they are named at the end.
    for result in results:
        if result.error is None:
            table = Table(title=escape(printable(result.query)), title_justify="left", box=None, pad_edge=False)
            table.add_column("rank", justify="right")
            table.add_column("centred cosine" if centred else "cosine", justify="right")
            table.add_column("path", overflow="fold")
            for rank, match in enumerate(result.neighbours, 1):
                table.add_row(str(rank), f"{match.cosine:.4f}", escape(printable(match.item.name)))
            console.print(table)
    print_unreadable(results)


def print_json(results: Sequence[QueryResult], collection: Collection, *, centred: bool) -> None:
    """Print all results as one JSON object on stdout; unreadable queries go to stderr, too."""
    content = {
        "model": collection.model,
        "manifest_sha256": collection.sha256,
        "centred": centred,
        "queries": [
            {"query": r.query, "error": r.error, "neighbours": [match.to_json() for match in r.neighbours]}
            for r in results
        ],
    }
    terminal.print_json(content)
    print_unreadable(results)


def print_unreadable(results: Sequence[QueryResult]) -> None:
    """Print a line on stderr for each query that could not be read."""
    for result in results:
        if result.error is not None:
            print_line(f"{result.query} cannot be read: {result.error}", file=sys.stderr)
