"""``zoo search`` from open to print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo.errors import EXIT_OK, EXIT_SOME_FAILED, EXIT_USER_ERROR
from zoo.search import html_report, messages
from zoo.search.collection import Collection
from zoo.search.index import open_index
from zoo.search.query import open_model, search
from zoo.search.thumbnails import Pictures


def run_search(
    out: Path,
    queries: Sequence[Path],
    *,
    k: int,
    html: Path | None,
    json: bool,
    images: str | None,
    model: str | None,
    max_pixels: int,
    device: str | None,
) -> int:
    """Prints the neighbours, writes the page if asked for, and returns the exit code."""
    collection = Collection(out)
    pictures = None if images is None else Pictures(collection, images)
    index = open_index(collection)
    embedder = open_model(collection, model, device=device)
    answers = search(collection, index.neighbours, embedder, queries, k=k, max_pixels=max_pixels)
    failed = sum(answer.error is not None for answer in answers)
    if html is not None and failed < len(answers):
        html_report.write(html, collection, answers, pictures)
    if json:
        messages.print_json(answers, collection)
    elif html is None:
        messages.print_answers(answers)
    else:
        messages.print_unreadable(answers)
        print(html)
    return EXIT_OK if not failed else EXIT_USER_ERROR if failed == len(answers) else EXIT_SOME_FAILED
