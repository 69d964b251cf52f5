"""Images in, neighbours out: the model and the preprocessing are those the collection was made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.inference.embedder import Embedder
from zoo.inference.outputs import EMBEDDING
from zoo.models import registry
from zoo.numerics.similarity import Found, l2_normalize
from zoo.search.collection import Collection, Item
from zoo.search.index import Neighbours
from zoo.transforms.decode import UnreadableImage, decoded, read_bytes

# what decides where an embedding points; engine and device move it by less than neighbours differ
_SAME = ("weights_sha256", "preprocessing", "dim")


@dataclass(frozen=True)
class Neighbour:
    """An image of the collection and its cosine to the query."""

    item: Item
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """row, path, cosine."""
        return {"row": self.item.row, "path": self.item.name, "cosine": round(self.cosine, 6)}


@dataclass(frozen=True)
class Answer:
    """One query: its name to show, its file, its neighbours, nearest first, or why it could not be read."""

    query: str
    source: Path | None = None
    neighbours: tuple[Neighbour, ...] = ()
    error: str | None = None


def open_model(collection: Collection, model: str | None = None, *, device: str | None = None) -> Embedder:
    """The model that made the collection, with its preprocessing, engine and precision.

    Args:
        model: where it is now; needed where the manifest's name is none of ``zoo list`` but that of a file.

    Raises:
        UserError: it is not there any more, or ``model`` is another one.
    """
    import zoo

    told = collection.manifest
    if model is None:
        model = collection.model
        if registry.split_name(model)[0] not in registry.MODELS:
            sha256 = str(told.get("weights_sha256"))[:16]
            raise UserError(
                f"{collection.root} was made with a file named {model!r} (sha256 {sha256}...), "
                "which is no name of `zoo list`: say where it is with --model PATH"
            )
    options: dict[str, Any] = {"backend": told["backend"], "precision": told["precision"]}
    if str(model).endswith(".onnx"):
        options = {}  # the file decides
    outputs = zoo.Outputs(crops=told.get("crops", "center"))
    embedder = zoo.load(model, device=device, normalize=bool(told.get("normalize")), outputs=outputs, **options)
    identity = embedder.identity()
    for key in _SAME:
        if identity.get(key) != told.get(key):
            raise UserError(
                f"{collection.root} was made with another model: {key} is {_short(told.get(key))} there and "
                f"{_short(identity.get(key))} in {model}; search with the one it was made with, or extract again"
            )
    if told.get("weights_sha256") is None and identity["model"] != collection.model:
        raise UserError(f"{collection.root} was made with {collection.model}, not with {identity['model']}")
    return embedder


def embed_bytes(embedder: Embedder, data: bytes, max_pixels: int) -> NDArray[np.float32]:
    """The embedding float32 [D] of an encoded image, as ``zoo extract`` makes it. Raises UnreadableImage."""
    with decoded(data, max_pixels) as image:
        views = embedder.views(image)
    embedding: NDArray[np.float32] = embedder.outputs_of([views])[EMBEDDING][0]
    return embedding


def search(
    collection: Collection, index: Neighbours, embedder: Embedder, queries: Sequence[Path], *, k: int, max_pixels: int
) -> list[Answer]:
    """An answer per query, in their order; one that cannot be read does not stop the others."""
    answers = []
    for query in queries:
        shown = str(query).encode(errors="backslashreplace").decode()
        try:
            vector = embed_bytes(embedder, read_bytes(query), max_pixels)
        except UnreadableImage as error:
            answers.append(Answer(shown, query, error=str(error)))
            continue
        answers.append(Answer(shown, query, tuple(nearest(collection, index, vector, k))))
    return answers


def nearest(collection: Collection, index: Neighbours, vector: NDArray[np.float32], k: int) -> list[Neighbour]:
    """The ``k`` nearest images of an embedding [D] of any length; none where it has no direction."""
    queries = l2_normalize(vector[None])
    if np.isnan(queries).any():
        return []
    return named(collection, index.search(queries, k)[0])


def named(collection: Collection, found: Found) -> list[Neighbour]:
    """Rows and cosines as images."""
    return [Neighbour(collection.item(int(row)), float(cosine)) for row, cosine in zip(*found, strict=True)]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 64 else text[:64] + "..."
