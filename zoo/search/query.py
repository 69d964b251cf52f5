"""Search a collection by image, with the model and the preprocessing that made the collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.inference.embedder import Embedder
from zoo.inference.outputs import EMBEDDING, Outputs
from zoo.loading import load
from zoo.models import registry
from zoo.numerics.similarity import l2_normalize
from zoo.search.collection import Collection, Item
from zoo.search.index import Searcher
from zoo.transforms.decode import UnreadableImage, decoded, read_bytes

# These decide where an embedding points. Backend and device move it by less than neighbours differ.
_BACKENDS = ("torch", "onnx")
_MUST_AGREE = ("weights_sha256", "preprocessing", "dim")


@dataclass(frozen=True)
class Match:
    """An image of the collection and the cosine of its embedding with the query's."""

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
    manifest = collection.manifest
    # Fall back to the model that the manifest names.
    if model is None:
        model = collection.model
        if registry.split_name(model)[0] not in registry.MODELS:
            sha256 = str(manifest.get("weights_sha256"))[:16]
            raise UserError(
                f"{collection.root} was made with a file named {model!r} (sha256 {sha256}...), "
                "which is no name of `zoo list`: say where it is with --model PATH"
            )
    # Load it as the extraction did, so that embeddings are comparable.
    normalize, outputs = bool(manifest.get("normalize")), Outputs(crops=str(manifest.get("crops", "center")))
    if str(model).endswith(".onnx"):  # the file decides backend and precision
        embedder = load(model, device=device, normalize=normalize, outputs=outputs)
    else:
        backend, precision = manifest.get("backend"), manifest.get("precision")
        if backend not in _BACKENDS or not isinstance(precision, str):
            raise UserError(f"the manifest of {collection.root} does not say what ran the model: extract again")
        embedder = load(
            model, device=device, backend=backend, precision=precision, normalize=normalize, outputs=outputs
        )

    # refuse any other model: its embeddings cannot be compared
    identity = embedder.identity()
    for key in _MUST_AGREE:
        if identity.get(key) != manifest.get(key):
            raise UserError(
                f"{collection.root} was made with another model: {key} is {_short(manifest.get(key))} there and "
                f"{_short(identity.get(key))} in {model}; search with the one it was made with, or extract again"
            )
    # Without a hash, the name is all there is to compare.
    if manifest.get("weights_sha256") is None and identity["model"] != collection.model:
        raise UserError(f"{collection.root} was made with {collection.model}, not with {identity['model']}")
    return embedder


def embed_bytes(embedder: Embedder, data: bytes, max_pixels: int) -> NDArray[np.float32]:
    """Embed one encoded image as ``zoo extract`` does: float32 [D]. UnreadableImage: it cannot be decoded."""
    with decoded(data, max_pixels) as image:
        views = embedder.views(image)
    embedding: NDArray[np.float32] = embedder.outputs_of([views])[EMBEDDING][0]
    return embedding


def search(
    collection: Collection, searcher: Searcher, embedder: Embedder, queries: Sequence[Path], *, k: int, max_pixels: int
) -> list[QueryResult]:
    """Find the ``k`` nearest images of each query file; a file that cannot be read does not stop the others.

    Args:
        max_pixels: larger queries are not decoded.

    Returns:
        A result per query, in the order of ``queries``.
    """
    results = []
    for query in queries:
        # A file name may hold bytes that cannot be printed.
        name = str(query).encode(errors="backslashreplace").decode()
        try:
            vector = embed_bytes(embedder, read_bytes(query), max_pixels)
        except UnreadableImage as error:
            results.append(QueryResult(name, query, error=str(error)))
            continue
        results.append(QueryResult(name, query, tuple(nearest(collection, searcher, vector, k))))
    return results


def nearest(collection: Collection, searcher: Searcher, vector: NDArray[np.float32], k: int) -> list[Match]:
    """Return the ``k`` nearest images to an embedding [D] of any length; none if it is zero or not finite."""
    queries = l2_normalize(vector[None])
    if np.isnan(queries).any():
        return []
    rows, cosines = searcher.search(queries, k)[0]
    try:
        return [Match(collection.item(int(row)), float(cosine)) for row, cosine in zip(rows, cosines, strict=True)]
    except IndexError:  # a graph whose keys are not those of this collection, with the hash that index.json says
        raise UserError(f"the index of {collection.root} is of other images: run `zoo index` again") from None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 64 else text[:64] + "..."
