"""Images to embeddings: one interface over the backends, torch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.errors import UserError, require_positive
from zoo.inference.finite import require_finite_rows
from zoo.inference.images import ImageLike, Images, ImageTransform, as_rgb, count_of, each_image, usable
from zoo.inference.outputs import EMBEDDING, EMBEDDING_ONLY, HEAD_PARTS, TILES, Outputs
from zoo.inference.reopening import Reopening
from zoo.inference.torch_backend import TensorState, TorchEngine, tensor_state, torch_device
from zoo.inference.weights_info import WeightsInfo
from zoo.models.backbones import stage_parts
from zoo.system.progress import Progress
from zoo.system.torch_defaults import full_float32
from zoo.transforms.preprocess import Preprocessing
from zoo.version import __version__

if TYPE_CHECKING:
    from torch import nn

    from zoo.models.head_spec import EncoderHeads

_BATCH = 32


class Engine(Protocol):
    """The part of a backend that runs a network on pixels."""

    backend: str  # torch, onnx or openvino
    dim: int
    device: str
    precision: str
    versions: dict[str, str]

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3], RGB, of the preprocessing's size -> float32 [N, D]."""


@dataclass(repr=False)
class Embedder:
    """A function from images to float32 embeddings [N, D], preprocessing included; ``zoo.load`` makes it.

    Attributes:
        engine: runs the network.
        preprocessing: transform that the weights were trained for.
        normalize: scale embeddings to length 1.
        weights_info: name, method, licence, source and hashes of the weights.
        heads: projector and predictor of a converted model, on the same device; ``None`` where it has none.
        backend_reason: why this backend runs the model, in a few words.
        requested: the outputs that ``outputs`` returns, and the crops that an embedding is made of.
        reopening: how another process opens the same embedder; ``None`` for a network that was made in memory.

    A pickle holds how to open the embedder again, in some hundred bytes: name or path, settings, sha256 of the weights.
    Unpickling opens the weights again, and refuses others. A copy (``copy.deepcopy``) holds the network itself.
    """

    engine: Engine
    preprocessing: Preprocessing
    normalize: bool = False
    weights_info: WeightsInfo = field(default_factory=WeightsInfo)
    heads: EncoderHeads | None = None
    backend_reason: str = "asked for"
    requested: Outputs = EMBEDDING_ONLY
    reopening: Reopening | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        about = self.weights_info
        runs = f"{self.engine.backend} {self.engine.precision} on {self.engine.device}"
        licence = about.get("licence", "licence unknown")
        return f"Embedder({about.get('model', 'a network in memory')}: {self.dim} numbers, {runs}, {licence})"

    def __reduce__(self) -> tuple[Callable[..., Embedder], tuple[object, ...]]:
        if self.reopening is None:
            raise UserError(
                "this embedder was made of a network in memory and has no file to open again: pickle "
                "embedder.transform, or save the network and zoo.load the file"
            )
        if self.reopening.state != self._state():
            raise UserError(
                "the network was changed since it was opened, and a pickle holds its file only, not its weights: "
                "pickle embedder.model.state_dict() instead"
            )
        settings = {name: getattr(self, name) for name in ("preprocessing", "normalize", "requested", "backend_reason")}
        return _reopened, (self.reopening.open, settings)

    def __copy__(self) -> Embedder:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Embedder:
        copied = replace(self, engine=deepcopy(self.engine, memo), heads=deepcopy(self.heads, memo))
        # The copy's tensors are others, and as unchanged as these.
        if self.reopening is not None and self.reopening.state == self._state():
            copied.reopening = Reopening(self.reopening.open, copied._state())
        return copied

    def with_reopening(self, reopen: Callable[[], Embedder]) -> Embedder:
        """Return an embedder that can be pickled: it knows how to open its weights again.

        Args:
            reopen: opens the same weights in another process; it is pickled itself.
        """
        return replace(self, reopening=Reopening(reopen, self._state()))

    def _state(self) -> TensorState:
        modules = [self.engine.model] if isinstance(self.engine, TorchEngine) else []
        heads = [part for part in vars(self.heads).values() if part is not None] if self.heads else []
        return tensor_state([*modules, *heads])

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.engine.dim

    @property
    def device(self) -> str:
        """Where the network runs: ``cpu``, ``cuda:0``, ``mps``."""
        return self.engine.device

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each output of one image by name, ``embedding`` first. See ``zoo.inference.outputs``."""
        requested, shapes = self.requested, {EMBEDDING: (self.dim,)}
        if requested.layers or requested.maps:
            side, channels = self.preprocessing.input_size, self.preprocessing.channels
            blank = np.zeros((1, side, side, channels), np.uint8)
            shapes |= {name: values.shape[1:] for name, values in self._run(blank).items()}
        heads = self._head_outputs(np.zeros((1, self.dim), np.float32))
        shapes |= {name: values.shape[1:] for name, values in heads.items()}
        return shapes | ({TILES: (*requested.tiles, self.dim)} if requested.tiles else {})

    @property
    def model(self) -> nn.Module:
        """The bare torch module: normalised float [N, 3, H, W] -> [N, D].

        Raises:
            UserError: this embedder runs on ONNX Runtime or OpenVINO.
        """
        model: nn.Module = self._torch_engine.model
        return model

    def __call__(
        self, images: Images, *, batch_size: int | None = None, progress: bool | Progress = False
    ) -> NDArray[np.float32]:
        """Embed images; the rows are in the order given.

        Args:
            images: one or an iterable (a generator, too) of: paths; bytes of image files; files open in binary mode,
                BytesIO too; PIL images (any mode, EXIF orientation applied); arrays [H, W, 3] in the order RGB, RGBA
                [H, W, 4] (put over white) or gray [H, W]; tensors [C, H, W]. Both are uint8, or float in [0, 1]. Arrays
                [N, H, W, C] and tensors [N, C, H, W] are N images.
            batch_size: crops in a forward pass; ``None`` is 32. It changes the last digits only.
            progress: show a bar on stderr (a line every ten seconds where that is no terminal), or where to show it.

        Returns:
            float32 [N, D]; one image gives [1, D].

        Raises:
            UserError: a file cannot be read, an array has another shape, type or range, or an output is not finite.
        """
        plain = replace(self, requested=self.requested.embedding_only())
        rows = [part[EMBEDDING] for part in plain._batches(images, batch_size, progress)]
        return np.concatenate(rows) if rows else np.empty((0, self.dim), np.float32)

    def outputs(
        self, images: Images, *, batch_size: int | None = None, progress: bool | Progress = False
    ) -> dict[str, NDArray[np.float32]]:
        """Compute all outputs that were requested when the model was loaded; the rows are in the order given.

        Heads take the embedding before normalisation; ``normalize`` applies to ``embedding`` and ``tiles``.

        Args:
            images, batch_size, progress: as for ``__call__``.

        Returns:
            float32 arrays by name: ``embedding`` [N, D], and the outputs of ``zoo.load(outputs=...)``, see
            ``zoo.inference.outputs``.

        Raises:
            UserError: as ``__call__``.
        """
        parts = list(self._batches(images, batch_size, progress))
        return {
            name: np.concatenate([part[name] for part in parts]) if parts else np.empty((0, *shape), np.float32)
            for name, shape in self.shapes.items()
        }

    @property
    def transform(self) -> ImageTransform:
        """Preprocess one image for ``model``: ``transform(image)`` is a float32 tensor [3, H, W], normalised.

        The transform holds no network: it pickles, for the workers of a ``DataLoader``.
        """
        return ImageTransform(self.preprocessing)

    def pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """Resize and crop one image: uint8 [H, W, 3]."""
        return self.preprocessing.pixels(as_rgb(image))

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed uint8 [N, H, W, 3] of the preprocessing's size: float32 [N, D], of length 1 if ``normalize``.

        Raises:
            UserError: an embedding is not finite.
        """
        embeddings = self.engine(pixels)
        require_finite_rows(embeddings, "the embedding values of image")
        return self._normalized(embeddings)

    def views(self, image: Image.Image) -> list[NDArray[np.uint8]]:
        """Return the crops of an RGB image that the network sees, then its tiles row by row, each uint8 [H, W, 3].

        Raises:
            UnreadableImage: ``too-large``, see ``Preprocessing``.
        """
        crops = {"center": self._center, "ten": self.preprocessing.ten_crops, "full": self._whole}[self.requested.crops]
        tiles = self.requested.tiles
        return [*crops(image), *(self.preprocessing.tiles(image, *tiles) if tiles else ())]

    def outputs_of(
        self, views: Sequence[Sequence[NDArray[np.uint8]]], at_once: int = _BATCH
    ) -> dict[str, NDArray[np.float32]]:
        """Compute the outputs of images from their ``views``.

        Args:
            at_once: largest number of views in a forward pass.
        """
        # The first views of an image are its crops.
        count, tiles = self.requested.crop_count, self.requested.tiles
        crops = [view for views_of_image in views for view in views_of_image[:count]]
        # whole images differ in size, so each is a batch of its own
        size = 1 if self.requested.crops == "full" else at_once
        parts = [self._run(np.stack(batch)) for batch in _batched(crops, size)]
        found = {name: _mean(np.concatenate([part[name] for part in parts]), count) for name in parts[0]}
        # Heads take the raw embedding, so normalise it after them.
        found |= self._head_outputs(found[EMBEDDING])
        found[EMBEDDING] = self._normalized(found[EMBEDDING])
        # The other views are its tiles.
        if tiles:
            parts_of_images = [view for views_of_image in views for view in views_of_image[count:]]
            rows = np.concatenate([self.engine(np.stack(batch)) for batch in _batched(parts_of_images, at_once)])
            found[TILES] = self._normalized(rows).reshape(len(views), *tiles, self.dim)
        return found

    def identity(self) -> dict[str, Any]:
        """Return all that decides the bytes of an embedding, besides the decoder, as JSON; equal in every run."""
        return {
            **self.weights_info,
            "preprocessing": self.preprocessing.to_json(),
            "backend": self.engine.backend,
            "device": self.engine.device.partition(":")[0],  # the kind only: the choice among equal GPUs does not count
            "precision": self.engine.precision,
            "normalize": self.normalize,
            **({"crops": self.requested.crops} if self.requested.crops != "center" else {}),
            "dim": self.dim,
            "versions": {
                "siamese-zoo": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                **self.engine.versions,
            },
        }

    def _batches(
        self, images: Images, batch_size: int | None, progress: bool | Progress
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        at_once = _BATCH if batch_size is None else batch_size
        require_positive("batch_size", at_once)
        each = each_image(images)
        with ExitStack() as stack:
            # A bar of our own ends with the last image; the caller's goes on.
            bar = progress if isinstance(progress, Progress) else None
            if progress is True:
                bar = stack.enter_context(Progress("images"))
                if (total := count_of(images)) is not None:
                    bar.start(total)
            done = 0
            while batch := [
                self._usable_views(image) for image in islice(each, max(1, at_once // self.requested.views))
            ]:
                found = self.outputs_of(batch, at_once)
                for name, values in found.items():
                    require_finite_rows(values, f"the {name} values of image", done)
                yield found
                done += len(batch)
                if bar is not None:
                    bar.advance(len(batch))

    def _usable_views(self, image: Image.Image) -> list[NDArray[np.uint8]]:
        with usable(f"an image of {image.width} x {image.height} pixels"):
            return self.views(image)

    def _center(self, image: Image.Image) -> list[NDArray[np.uint8]]:
        return [self.preprocessing.pixels(image)]

    def _whole(self, image: Image.Image) -> list[NDArray[np.uint8]]:
        return [self.preprocessing.whole(image)]

    @property
    def _torch_engine(self) -> TorchEngine:
        if not isinstance(self.engine, TorchEngine):
            runtime = {"openvino": "OpenVINO"}.get(self.engine.backend, "ONNX Runtime")
            raise UserError(f"this embedder runs on {runtime} and has no torch module: load with backend='torch'")
        return self.engine

    def _run(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """One forward pass: the embedding before normalisation, and the requested stages."""
        if self.requested.layers or self.requested.maps:
            return self._torch_engine.stages(pixels, self.requested.layers, self.requested.maps)
        return {EMBEDDING: self.engine(pixels)}

    def _head_outputs(self, embeddings: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        assert self.heads is not None or not self.requested.heads  # ``zoo.load`` checks it
        if self.heads is None:
            return {}
        with full_float32():
            return {n: self.heads.run(HEAD_PARTS[n], embeddings) for n in self.requested.heads}

    def _normalized(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.normalize:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return embeddings


def _reopened(reopen: Callable[[], Embedder], settings: Mapping[str, Any]) -> Embedder:
    """Unpickle an embedder."""
    return replace(reopen(), **settings)


def open_torch(
    model: nn.Module,
    preprocessing: Preprocessing,
    weights_info: WeightsInfo,
    *,
    device: str | None = None,
    precision: str = "fp32",
    normalize: bool = False,
    requested: Outputs = EMBEDDING_ONLY,
    heads: EncoderHeads | None = None,
    backend_reason: str = "asked for",
) -> Embedder:
    """Make an embedder that runs ``model`` on torch; see ``Embedder`` for the arguments.

    Args:
        device: ``None`` is the first GPU (CUDA, else Apple's MPS), else the CPU. ``heads`` are moved there.
        precision: ``fp32`` or ``bf16``.

    Raises:
        UserError: the device is not usable here, or the network has no such layers.
    """
    for name in (*requested.layers, *requested.maps):
        stage_parts(model, name, "--layers" if requested.layers else "--maps")
    engine = TorchEngine(model, preprocessing, device=torch_device(device), precision=precision)
    heads = heads.to(engine.device) if heads else None
    return Embedder(engine, preprocessing, normalize, weights_info, heads, backend_reason, requested)


def _batched(views: list[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    return (views[first : first + size] for first in range(0, len(views), size))


def _mean(values: NDArray[np.float32], crops: int) -> NDArray[np.float32]:
    """Average over the crops of each image: [N * crops, ...] -> [N, ...]."""
    if crops == 1:
        return values
    mean: NDArray[np.float32] = values.reshape(-1, crops, *values.shape[1:]).mean(1)
    return mean
