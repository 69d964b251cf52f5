"""``zoo.sklearn.ImageEmbedder``: embeddings as a step of a scikit-learn pipeline. It needs scikit-learn.

make_pipeline(ImageEmbedder("mocov2_r50"), StandardScaler(), LogisticRegression()).fit(paths, labels)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from zoo.inference.embedder import Embedder
from zoo.inference.images import ImageLike
from zoo.loading import load


class ImageEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Turns images into embeddings float32 [N, D]; there is nothing to fit.

    The network is opened at the first use and shared by no copy: a clone or a pickle holds the parameters alone.

    Args:
        model: as in ``zoo.load``; ``None`` is the network that ships with the package.
        device: ``cpu``, ``cuda``, ...; ``None`` is the first GPU if there is one.
        backend: ``torch``, ``onnx`` or ``auto``.
        normalize: scale embeddings to length 1.
        batch_size: images in a forward pass; ``None`` is 32.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str | None = None,
        backend: str = "torch",
        normalize: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self.backend = backend
        self.normalize = normalize
        self.batch_size = batch_size

    def fit(self, X: Iterable[ImageLike], y: object = None) -> ImageEmbedder:
        """Return itself: the network is trained already."""
        return self

    def transform(self, X: Iterable[ImageLike]) -> NDArray[np.float32]:
        """Embed images.

        Args:
            X: paths, bytes of files, PIL images or arrays, as an embedder of ``zoo.load`` takes them; a column of a
                ``DataFrame``, too.

        Returns:
            float32 [N, D] in the order given.

        Raises:
            UserError: an image cannot be read, or the model cannot be opened.
        """
        embedder, images = self._opened(), X if isinstance(X, np.ndarray) and X.ndim > 1 else list(X)
        return embedder(images, batch_size=self.batch_size)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return the names of the columns: ``imageembedder0`` and so on [D]."""
        return np.array([f"imageembedder{n}" for n in range(self._opened().dim)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_embedder"}

    def _opened(self) -> Embedder:
        wanted = (self.model, self.device, self.backend, self.normalize)
        found: tuple[tuple[object, ...], Embedder] | None = getattr(self, "_embedder", None)
        # set_params can have asked for another model since.
        if found is None or found[0] != wanted:
            embedder = load(self.model, device=self.device, backend=self.backend, normalize=self.normalize)
            found = self._embedder = (wanted, embedder)
        return found[1]
