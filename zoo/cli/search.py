"""The body of ``zoo search``: open index and model, search, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo.errors import EXIT_OK, EXIT_SOME_FAILED, EXIT_USER_ERROR
from zoo.search import html_report, messages
from zoo.search.captions import Captions
from zoo.search.collection import Collection
from zoo.search.index import open_index
from zoo.search.query import open_model, search
from zoo.search.thumbnails import Thumbnails
from zoo.system.terminal import print_line
from zoo.system.verbosity import note


def run_search(
    out: Path,
    queries: Sequence[Path],
    *,
    k: int,
    html: Path | None,
    caption: str | None,
    json: bool,
    images: str | None,
    model: str | None,
    max_pixels: int,
    device: str | None,
) -> int:
    """Print the nearest images of each query, write the HTML report if asked for, and return the exit code."""
    # Open everything before the first query, so that mistakes show early.
    collection = Collection(out)
    if caption is not None:
        Captions(collection, caption)
    thumbnails = None if images is None else Thumbnails(collection, images)
    if thumbnails is not None and (problem := thumbnails.problem()) is not None:
        note(f"WARNING: {images} does not hold the pictures of {out} ({problem}): give --images what was extracted")
    index = open_index(collection)
    embedder = open_model(collection, model, device=device)
    results = search(collection, index, embedder, queries, k=k, max_pixels=max_pixels)

    failed = sum(result.error is not None for result in results)
    # A page without any neighbours is not written.
    if html is not None and failed < len(results):
        html_report.write(html, collection, results, thumbnails, centred=index.is_centred, caption=caption)
    if json:
        messages.print_json(results, collection, centred=index.is_centred)
    elif html is None:
        messages.print_results(results, centred=index.is_centred)
    else:
        messages.print_unreadable(results)
        print_line(html)
    # Tell by the exit code whether all, some or no queries were read.
    return EXIT_OK if not failed else EXIT_USER_ERROR if failed == len(results) else EXIT_SOME_FAILED
