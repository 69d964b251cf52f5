"""Images to embeddings: one interface over the engines, torch and ONNX Runtime."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo import __version__
from zoo import images as decoder
from zoo.errors import UserError
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.head_layouts import Heads
    from zoo.weights import WeightFile

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


class TorchEngine:
    """The torch module, on CPU or GPU, in fp32 or under bf16 autocast.

    In fp32 on the CPU what runs is a copy with its batch norms folded, where that gives the same features to 1e-5;
    ``model`` stays as it was.
    """

    backend = "torch"

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, *, device: str, precision: str) -> None:
        import torch

        self._torch = torch
        self.device, self.precision = device, precision
        self.model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dim = int(model.num_features)  # type: ignore[arg-type]
        self.versions = {p: version(p) for p in ("torch", "timm")}
        self._runs: nn.Module | None = None
        self._mean, self._std = (
            torch.tensor(v, device=device).mul(255)[:, None, None] for v in (preprocessing.mean, preprocessing.std)
        )

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        torch = self._torch
        with (
            torch.inference_mode(),
            torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            # NHWC bytes seen as NCHW are channels_last already: no copy but the conversion to float
            x = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)
            result: NDArray[np.float32] = self._network()(x).float().cpu().numpy()
        return result

    def _network(self) -> nn.Module:
        if self._runs is None:
            from zoo.folding import folded

            plain = self.device == "cpu" and self.precision == "fp32"
            self._runs = (folded(self.model) if plain else None) or self.model
        return self._runs


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
    """

    engine: Engine
    preprocessing: Preprocessing
    normalize: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    heads: Heads | None = None
    chosen: str = "asked for"

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.engine.dim

    @property
    def model(self) -> nn.Module:
        """The bare torch module: normalised float [N, 3, H, W] -> [N, D].

        Raises:
            UserError: this embedder runs on ONNX Runtime.
        """
        if not isinstance(self.engine, TorchEngine):
            raise UserError("this embedder runs on ONNX Runtime and has no torch module: load with backend='torch'")
        model: nn.Module = self.engine.model
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
        embeddings = self.engine(pixels)
        if self.normalize:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return embeddings

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
        rows: list[NDArray[np.float32]] = []
        batch: list[NDArray[np.uint8]] = []
        for image in _each(images):
            batch.append(self.pixels(image))
            if len(batch) == _BATCH:
                rows.append(self.embed_pixels(np.stack(batch)))
                batch = []
        if batch:
            rows.append(self.embed_pixels(np.stack(batch)))
        return np.concatenate(rows) if rows else np.empty((0, self.dim), np.float32)

    def identity(self) -> dict[str, Any]:
        """All that decides the bytes of an embedding besides the decoder; JSON-able, the same on every run."""
        return {
            **self.about,
            "preprocessing": self.preprocessing.to_json(),
            "backend": self.engine.backend,
            "device": self.engine.device.partition(":")[0],  # of a kind: which of several GPUs decides nothing
            "precision": self.engine.precision,
            "normalize": self.normalize,
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
    heads: Heads | None = None,
    device: str | None = None,
    precision: str = "fp32",
    normalize: bool = False,
) -> Embedder:
    """An embedder on torch; ``device`` ``None`` means the first GPU (CUDA, else Apple's MPS), else the CPU."""
    engine = TorchEngine(model, preprocessing, device=_torch_device(device), precision=precision)
    return Embedder(engine, preprocessing, normalize, about, heads.to(engine.device) if heads else None)


def about(file: WeightFile) -> dict[str, Any]:
    """What a manifest says of the weights."""
    return {
        "model": file.name,
        "method": file.method,
        "licence": file.licence,
        "weights_sha256": file.sha256,
        **({"source": file.source} if file.source else {}),
    }


def _torch_device(device: str | None) -> str:
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} is not usable here: {str(error).splitlines()[0]}") from None
    return device
