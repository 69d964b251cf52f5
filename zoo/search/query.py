"""Search a collection by image, with the model and the preprocessing that made the collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.embeddings.reopen_model import reopen_model
from zoo.errors import UserError
from zoo.inference.arrays import hint_of_path
from zoo.inference.embedder import Embedder
from zoo.inference.finite import require_finite_rows
from zoo.inference.outputs import EMBEDDING
from zoo.search.collection import Collection, Item
from zoo.search.index import Index
from zoo.transforms.decode import decoded
from zoo.transforms.image_bytes import read_bytes
from zoo.transforms.limits import DEFAULT_OPTIONS, DecodeOptions
from zoo.transforms.unreadable import UnreadableImage


@dataclass(frozen=True)
class Match:
    """An image of the collection and the cosine of its embedding with the query's, centred where the index is."""

    item: Item
    cosine: float

    def to_json(self) -> dict[str, object]:
        """Return ``row``, ``path`` and ``cosine``, rounded to six digits."""
        return {"row": self.item.row, "path": self.item.name, "cosine": round(self.cosine, 6)}


@dataclass(frozen=True)
class QueryResult:
    """The result of one query.

    Attributes:
        query: the file's path as text; bytes that are not UTF-8 are escaped.
        file: path of the image file.
        neighbours: nearest images of the collection, nearest first.
        error: why the query could not be read; else ``None``.
    """

    query: str
    file: Path
    neighbours: tuple[Match, ...] = ()
    error: str | None = None


def open_model(collection: Collection, model: str | None = None, *, device: str | None = None) -> Embedder:
    """Open the model that made the collection, with the same preprocessing, backend and precision.

    Args:
        model: a name or path as for ``zoo.load``; required if the collection was made with a file, because the
            manifest holds no more than its name.

    Raises:
        UserError: the model cannot be found, or it is another one.
    """
    return reopen_model(collection.root, collection.manifest, model, device=device)


def embed_bytes(
    embedder: Embedder, data: bytes, max_pixels: int, options: DecodeOptions = DEFAULT_OPTIONS
) -> NDArray[np.float32]:
    """Embed one encoded image as ``zoo extract`` does: float32 [D].

    Raises:
        UnreadableImage: it cannot be decoded.
        UserError: its embedding is not finite.
    """
    check_size = partial(embedder.preprocessing.check_size, crops=embedder.requested.crops)
    reduction = partial(embedder.preprocessing.reduction, tiles=embedder.requested.tiles)
    with decoded(data, max_pixels, options, check_size=check_size, reduction=reduction) as image:
        views = embedder.views(image)
    embedding: NDArray[np.float32] = embedder.outputs_of([views])[EMBEDDING][0]
    require_finite_rows(embedding[None], "the embedding values of query")
    return embedding


def search(
    collection: Collection, index: Index, embedder: Embedder, queries: Sequence[Path], *, k: int, max_pixels: int
) -> list[QueryResult]:
    """Find the ``k`` nearest images of each query file; a file that cannot be read does not stop the others.

    Args:
        max_pixels: larger queries are not decoded.

    Returns:
        A result per query, in the order of ``queries``.
    """
    options, results = collection.decode_options, []
    for query in queries:
        # A file name may hold bytes that cannot be printed.
        name = str(query).encode(errors="backslashreplace").decode()
        try:
            vector = embed_bytes(embedder, read_bytes(query), max_pixels, options)
        except UnreadableImage as error:
            results.append(QueryResult(name, query, error=f"{error}{hint_of_path(query, error)}"))
            continue
        results.append(QueryResult(name, query, tuple(nearest(collection, index, vector, k))))
    return results


def nearest(collection: Collection, index: Index, vector: NDArray[np.float32], k: int) -> list[Match]:
    """Return the ``k`` nearest images to an embedding [D] of any length; none if it is zero or not finite."""
    return _matches(collection, index, index.directions(vector[None]), k)


def nearest_to_row(collection: Collection, index: Index, row: int, k: int) -> list[Match] | None:
    """Return the ``k`` nearest images to one of the collection, itself first; ``None`` if it has no embedding."""
    vector = index.searcher.vector(row) if row < len(collection) else None
    return None if vector is None else _matches(collection, index, vector[None], k)


def _matches(collection: Collection, index: Index, queries: NDArray[np.float32], k: int) -> list[Match]:
    if np.isnan(queries).any():
        return []
    rows, cosines = index.searcher.search(queries, k)[0]
    try:
        return [Match(collection.item(int(row)), float(cosine)) for row, cosine in zip(rows, cosines, strict=True)]
    except IndexError:  # a graph whose keys are not those of this collection, with the hash that index.json says
        raise UserError(f"the index of {collection.root} is of other images: run `zoo index` again") from None
