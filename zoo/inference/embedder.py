"""Images to embeddings: one interface over the engines, torch and ONNX Runtime."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.errors import UserError
from zoo.inference.outputs import EMBEDDING, HEADS, TILES, Outputs
from zoo.inference.torch_backend import TorchEngine, torch_device
from zoo.transforms import decode as decoder
from zoo.transforms.preprocess import Preprocessing
from zoo.version import __version__

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.hub.weights import WeightFile
    from zoo.models.head_spec import Heads

_BATCH = 32


class Engine(Protocol):
    """Runs a network on pixels."""

    backend: str  # torch or onnx
    dim: int
    device: str
    precision: str
    versions: dict[str, str]

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3], RGB, the size of the preprocessing -> float32 [N, D]."""


@dataclass
class Embedder:
    """Images to float32 [N, D], preprocessing included; made by ``zoo.load``.

    Attributes:
        engine: what runs the network.
        preprocessing: what the weights were trained for.
        normalize: whether embeddings have length 1.
        about: name, method, licence and sha256 of the weights, for manifests.
        heads: projector and predictor of a converted model, on the same device; ``None`` where it has none.
        chosen: why this engine runs it, in a few words.
        wants: what ``outputs`` gives, and which crops an embedding is made of.
    """

    engine: Engine
    preprocessing: Preprocessing
    normalize: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    heads: Heads | None = None
    chosen: str = "asked for"
    wants: Outputs = field(default_factory=Outputs)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.engine.dim

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """What ``outputs`` gives of an image, by name: ``embedding`` first. See ``zoo.inference.outputs``."""
        wants, shapes = self.wants, {EMBEDDING: (self.dim,)}
        if wants.layers or wants.maps:
            blank = np.zeros((1, self.preprocessing.input_size, self.preprocessing.input_size, 3), np.uint8)
            shapes |= {name: values.shape[1:] for name, values in self._run(blank).items()}
        heads = self._of_heads(np.zeros((1, self.dim), np.float32))
        shapes |= {name: values.shape[1:] for name, values in heads.items()}
        return shapes | ({TILES: (*wants.tiles, self.dim)} if wants.tiles else {})

    @property
    def model(self) -> nn.Module:
        """The bare torch module: normalised float [N, 3, H, W] -> [N, D].

        Raises:
            UserError: this embedder runs on ONNX Runtime.
        """
        model: nn.Module = self._torch_engine.model
        return model

    def transform(self, image: Any) -> Tensor:
        """One image (anything ``__call__`` takes) -> float32 tensor [3, H, W], normalised, for ``model``."""
        import torch

        return torch.from_numpy(self.preprocessing.normalise(self.pixels(image)[None])[0])

    def pixels(self, image: Any) -> NDArray[np.uint8]:
        """One image (anything ``__call__`` takes), resized and cropped: uint8 [H, W, 3]."""
        return self.preprocessing.pixels(as_rgb(image))

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3] of the preprocessing's size -> float32 [N, D], of length 1 if ``normalize``."""
        return self._scaled(self.engine(pixels))

    def views(self, image: Image.Image) -> list[NDArray[np.uint8]]:
        """What the network sees of an RGB image: its crop or crops, then its tiles row by row, each uint8 [H, W, 3].

        Raises:
            UnreadableImage: ``too-large``, see ``Preprocessing``.
        """
        crops = {"center": self._center, "ten": self.preprocessing.ten_crops, "full": self._whole}[self.wants.crops]
        return [*crops(image), *(self.preprocessing.tiles(image, *self.wants.tiles) if self.wants.tiles else ())]

    def outputs_of(
        self, views: Sequence[Sequence[NDArray[np.uint8]]], at_once: int = _BATCH
    ) -> dict[str, NDArray[np.float32]]:
        """The outputs of images from their ``views``, as ``outputs`` gives them.

        Args:
            at_once: how many views at most are in one forward pass.
        """
        crops, tiles = self.wants.crop_views, self.wants.tiles
        seen = [view for of_image in views for view in of_image[:crops]]
        # of the whole image each has its own size, and so goes alone
        parts = [self._run(np.stack(group)) for group in _groups(seen, 1 if self.wants.crops == "full" else at_once)]
        found = {name: _mean(np.concatenate([part[name] for part in parts]), crops) for name in parts[0]}
        found |= self._of_heads(found[EMBEDDING])
        found[EMBEDDING] = self._scaled(found[EMBEDDING])
        if tiles:
            seen = [view for of_image in views for view in of_image[crops:]]
            each = np.concatenate([self.engine(np.stack(group)) for group in _groups(seen, at_once)])
            found[TILES] = self._scaled(each).reshape(len(views), *tiles, self.dim)
        return found

    def outputs(self, images: Any) -> dict[str, NDArray[np.float32]]:
        """All that was wanted of images when the model was loaded, by name; rows are in the order given.

        Args:
            images: as ``__call__`` takes.

        Returns:
            ``embedding`` [N, D], and what ``zoo.load(outputs=...)`` asked for, see ``zoo.inference.outputs``;
            float32. The heads
            take the embedding as it is pooled, before it is normalised; ``normalize`` is for ``embedding`` and
            ``tiles``.

        Raises:
            UserError: as ``__call__``.
        """
        parts = list(self._batches(images))
        return {
            name: np.concatenate([part[name] for part in parts]) if parts else np.empty((0, *shape), np.float32)
            for name, shape in self.shapes.items()
        }

    def __call__(self, images: Any) -> NDArray[np.float32]:
        """Embeds images; rows are in the order given.

        Args:
            images: one or an iterable of: paths; PIL images (any mode, EXIF orientation applied); arrays uint8
                [H, W, 3] or [H, W]; tensors uint8 or float in [0, 1], [3, H, W]. Arrays [N, H, W, 3] and tensors
                [N, 3, H, W] are N images.

        Returns:
            float32 [N, D]; one image gives [1, D].

        Raises:
            UserError: a file that cannot be read, or an array of another shape, type or range.
        """
        alone = replace(self, wants=self.wants.alone())
        rows = [part[EMBEDDING] for part in alone._batches(images)]
        return np.concatenate(rows) if rows else np.empty((0, self.dim), np.float32)

    def _batches(self, images: Any) -> Iterator[dict[str, NDArray[np.float32]]]:
        each = iter(_each(images))
        while batch := [self.views(as_rgb(image)) for image in islice(each, max(1, _BATCH // self.wants.views))]:
            yield self.outputs_of(batch)

    def _center(self, image: Image.Image) -> list[NDArray[np.uint8]]:
        return [self.preprocessing.pixels(image)]

    def _whole(self, image: Image.Image) -> list[NDArray[np.uint8]]:
        return [self.preprocessing.whole(image)]

    @property
    def _torch_engine(self) -> TorchEngine:
        if not isinstance(self.engine, TorchEngine):
            raise UserError("this embedder runs on ONNX Runtime and has no torch module: load with backend='torch'")
        return self.engine

    def _run(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """One forward pass: the embedding as it is pooled, and the stages that are wanted."""
        if self.wants.layers or self.wants.maps:
            return self._torch_engine.stages(pixels, self.wants.layers, self.wants.maps)
        return {EMBEDDING: self.engine(pixels)}

    def _of_heads(self, embeddings: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        assert self.heads is not None or not self.wants.heads  # ``zoo.load`` sees to it
        return {name: self.heads.run(HEADS[name], embeddings) for name in self.wants.heads} if self.heads else {}

    def _scaled(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.normalize:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return embeddings

    def identity(self) -> dict[str, Any]:
        """All that decides the bytes of an embedding besides the decoder; JSON-able, the same on every run."""
        return {
            **self.about,
            "preprocessing": self.preprocessing.to_json(),
            "backend": self.engine.backend,
            "device": self.engine.device.partition(":")[0],  # of a kind: which of several GPUs decides nothing
            "precision": self.engine.precision,
            "normalize": self.normalize,
            **({"crops": self.wants.crops} if self.wants.crops != "center" else {}),
            "dim": self.dim,
            "versions": {
                "siamese-zoo": __version__,  # of the code, installed or not
                "python": platform.python_version(),
                "numpy": np.__version__,
                **self.engine.versions,
            },
        }


def as_rgb(image: Any) -> Image.Image:
    """One path, PIL image, array or tensor as an upright RGB PIL image; see ``Embedder.__call__``.

    Raises:
        UserError: it cannot be read as one image.
    """
    if isinstance(image, str | Path):
        try:
            return decoder.decode(decoder.read_bytes(image))
        except decoder.UnreadableImage as error:
            raise UserError(f"{image} cannot be read: {error}") from None
    if isinstance(image, Image.Image):
        try:
            return decoder.to_rgb(image)
        except decoder.UnreadableImage as error:
            raise UserError(f"a PIL image cannot be used: {error}") from None
    array = _as_array(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise UserError(
            f"an array of shape {array.shape} and type {array.dtype} is no image: uint8 [H, W, 3] or [H, W] is, "
            "and so is a tensor [3, H, W], uint8 or float in [0, 1]"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _as_array(image: Any) -> NDArray[Any]:
    """Tensors to uint8 HWC; the rest as numpy sees it."""
    if not hasattr(image, "detach"):
        return np.asarray(image)
    array: NDArray[Any] = image.detach().cpu().numpy()
    if array.ndim == 3:
        array = array.transpose(1, 2, 0)
        if array.shape[2] == 1:
            array = array[:, :, 0]
    if np.issubdtype(array.dtype, np.floating):
        if not (array.size and array.min() >= 0 and array.max() <= 1):
            raise UserError("a float tensor must hold values in [0, 1]; give normalised ones to embedder.model")
        array = np.round(array * 255).astype(np.uint8)
    return array


def _groups(views: list[NDArray[np.uint8]], most: int) -> Iterator[list[NDArray[np.uint8]]]:
    return (views[first : first + most] for first in range(0, len(views), most))


def _mean(values: NDArray[np.float32], views: int) -> NDArray[np.float32]:
    """[N * views, ...] -> [N, ...]."""
    if views == 1:
        return values
    mean: NDArray[np.float32] = values.reshape(-1, views, *values.shape[1:]).mean(1)
    return mean


def _each(images: Any) -> Iterable[Any]:
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if hasattr(images, "shape") and len(images.shape) in (2, 3):
        return [images]
    try:
        each: Iterable[Any] = iter(images)
        return each
    except TypeError:
        raise UserError(f"{type(images).__name__} is no image: give paths, PIL images, arrays or tensors") from None


def open_torch(
    model: nn.Module,
    preprocessing: Preprocessing,
    about: dict[str, Any],
    *,
    device: str | None = None,
    precision: str = "fp32",
    normalize: bool = False,
) -> Embedder:
    """An embedder on torch; ``device`` ``None`` means the first GPU (CUDA, else Apple's MPS), else the CPU."""
    engine = TorchEngine(model, preprocessing, device=torch_device(device), precision=precision)
    return Embedder(engine, preprocessing, normalize, about)


def about(file: WeightFile) -> dict[str, Any]:
    """What a manifest says of the weights."""
    return {
        "model": file.name,
        "method": file.method,
        "licence": file.licence,
        "weights_sha256": file.sha256,
        **({"source": file.source} if file.source else {}),
    }
