"""``zoo.lancedb.ImageEmbeddings``: LanceDB embeds and searches images with a model of the zoo. It needs lancedb.

    images = get_registry().get("siamese-zoo").create(model="mocov2_r50")

    class Photo(LanceModel):
        path: str = images.SourceField()
        vector: list[float] = images.VectorField()

Importing this module registers the function; a table remembers its name, so import it before the table is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.embeddings import EmbeddingFunction, register
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.inference.embedder import Embedder
from zoo.inference.images import ImageLike
from zoo.loading import load


@register("siamese-zoo")  # type: ignore[no-untyped-call]
class ImageEmbeddings(EmbeddingFunction):
    """Embeds paths, bytes of image files, PIL images or arrays.

    Attributes:
        model: as in ``zoo.load``; ``None`` is the network that ships with the package.
        device: ``cpu``, ``cuda``, ...; ``None`` is the first GPU if there is one.
        normalize: scale embeddings to length 1, so that the default distance of LanceDB ranks by cosine.
    """

    model: str | None = None
    device: str | None = None
    normalize: bool = True
    max_retries: int = 0  # an image that cannot be read cannot be read in seven seconds either

    def ndims(self) -> int:
        """Return the length of an embedding."""
        return self._embedder.dim

    def compute_query_embeddings(self, query: ImageLike, *args: Any, **kwargs: Any) -> list[NDArray[np.float32] | None]:
        """Embed the image that is asked for: one vector [D]. UserError: it cannot be read."""
        return list(self._embedder([query]))

    def compute_source_embeddings(
        self, images: Iterable[ImageLike] | pa.Array | pa.ChunkedArray, *args: Any, **kwargs: Any
    ) -> list[NDArray[np.float32] | None]:
        """Embed a column of images: a vector [D] each, ``None`` for an image that cannot be read."""
        values = images.to_pylist() if isinstance(images, pa.Array | pa.ChunkedArray) else list(images)
        try:
            return list(self._embedder(values)) if values else []
        except UserError:  # one at a time, to find out which
            return [self._one(value) for value in values]

    def _one(self, image: ImageLike) -> NDArray[np.float32] | None:
        try:
            vector: NDArray[np.float32] = self._embedder([image])[0]
            return vector
        except UserError:
            return None

    @cached_property
    def _embedder(self) -> Embedder:
        return load(self.model, device=self.device, normalize=self.normalize)
