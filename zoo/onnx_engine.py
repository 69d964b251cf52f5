"""Runs an exported network on ONNX Runtime; imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.embed import Embedder
from zoo.errors import UserError
from zoo.preprocess import Preprocessing

METADATA = "siamese-zoo"  # key of the ONNX file's metadata under which ``export.py`` leaves a JSON


class OnnxEngine:
    """uint8 [N, H, W, 3] -> float32 [N, D] through ``onnxruntime``, fp32, on the CPU or the first GPU."""

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        ort = import_onnxruntime()
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device)
        if provider is None or provider not in ort.get_available_providers():
            raise UserError(f"ONNX Runtime here has no provider for device {device!r}: use --device cpu")
        options = ort.SessionOptions()
        options.log_severity_level = 3  # its warnings about missing GPUs are not the user's business
        try:
            self._session = ort.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise UserError(f"{path} is no ONNX file that runs here: {str(error).splitlines()[0]}") from None
        if provider not in self._session.get_providers():  # it falls back to the CPU with a warning only
            raise UserError(f"ONNX Runtime could not start {provider}: use --device cpu")
        self.device = device
        self.dim = int(self._session.get_outputs()[0].shape[1])
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.versions = {"onnxruntime": runtime_version()}

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._session.run(["embedding"], {"pixels": pixels})[0]
        return result


@dataclass(frozen=True)
class OnnxFile:
    """What ``export.py`` writes into a file about itself."""

    about: dict[str, Any]
    preprocessing: Preprocessing
    normalize: bool  # whether the graph ends in an l2 norm


def open_onnx(path: Path, *, device: str | None = None, normalize: bool = False) -> Embedder:
    """An embedder on a file of ``zoo export``; ``device`` ``None`` means the CPU.

    Raises:
        UserError: no such file, not written by ``zoo export``, or the device has no provider.
    """
    if not path.is_file():
        raise UserError(f"no ONNX file at {path}")
    engine = OnnxEngine(path, device=device or "cpu")
    file = read_metadata(engine.metadata, path)
    # of a graph that normalises the embeddings have length 1, asked for or not; the manifest must say so
    return Embedder(engine, file.preprocessing, normalize or file.normalize, file.about)


def read_metadata(metadata: dict[str, str], path: Path) -> OnnxFile:
    """The JSON that ``export.py`` left.

    Raises:
        UserError: there is none.
    """
    try:
        values = json.loads(metadata[METADATA])
        return OnnxFile(values["about"], Preprocessing.from_json(values["preprocessing"]), values["normalize"])
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} was not written by `zoo export`: it does not say its preprocessing") from None


def import_onnxruntime() -> Any:
    """The module, or a UserError that says how to install it."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("the ONNX backend needs onnxruntime: pip install 'siamese-zoo[onnx]'") from None
    return onnxruntime


def runtime_version() -> str:
    """Of whichever of the two packages is installed."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return f"{version(name)} ({name})"
        except PackageNotFoundError:
            continue
    return "unknown"
