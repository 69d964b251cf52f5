"""Runs an exported network on ONNX Runtime; imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError, reason_of
from zoo.inference.embedder import Embedder
from zoo.inference.onnx_checks import require_self_contained
from zoo.system.atomic_files import sha256_file
from zoo.system.hardware import usable_cores
from zoo.transforms.preprocess import Preprocessing

METADATA = "siamese-zoo"  # key of the ONNX file's metadata under which ``export.py`` leaves a JSON
FORMAT = 2  # of that JSON and of the graph; a change makes all cached files anew
_PACKAGES = ("onnxruntime-gpu", "onnxruntime")


class OnnxEngine:
    """A file of ``zoo export`` on ONNX Runtime, on the CPU (all cores this process may use) or a GPU.

    Args:
        path: the file; one that points to data outside of itself is refused.
        device: ``cpu``, ``cuda`` or ``cuda:N``. There is no fall-back from one to the other.

    Raises:
        UserError: no such device here, or no ONNX file that runs.
    """

    backend = "onnx"

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        ort = import_onnxruntime()
        require_self_contained(path)
        provider = _provider(device, ort.get_available_providers())
        options = ort.SessionOptions()
        options.log_severity_level = 3  # its warnings about missing GPUs are not the user's business
        options.intra_op_num_threads = usable_cores()  # its own count ignores what the process may use
        # between two batches the cores decode: its threads must not spin meanwhile
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise UserError(f"{path} is no ONNX file that runs here: {reason_of(error)}") from None
        if provider[0] not in self._session.get_providers():  # it falls back to the CPU with a warning only
            raise UserError(f"ONNX Runtime could not start {provider[0]}{_both_installed()}: use --device cpu")
        self._input: str = self._session.get_inputs()[0].name
        self.device = device
        self.dim = int(self._session.get_outputs()[0].shape[1])
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.versions = {"onnxruntime": runtime_version(), "onnx_file": sha256_file(path)}
        self.file = read_metadata(self.metadata, path)
        self.precision = self.file.precision

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """What the file takes -> float32 [N, D]."""
        result: NDArray[np.float32] = self._session.run(["embedding"], {self._input: inputs})[0]
        return result

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, S, S, 3], resized and cropped -> float32 [N, D]."""
        if self.file.pixels == "normalised":
            return self.run(self.file.preprocessing.normalise(pixels))
        return self.run(pixels)


@dataclass(frozen=True)
class OnnxFile:
    """What ``export.py`` writes into a file about itself."""

    about: dict[str, Any]
    preprocessing: Preprocessing
    normalize: bool  # whether the graph ends in an l2 norm
    pixels: str  # see ``zoo.export.export.Variant``
    precision: str


def open_onnx(path: Path, *, device: str | None = None, normalize: bool = False) -> Embedder:
    """An embedder on a file of ``zoo export``; ``device`` ``None`` means the CPU.

    Raises:
        UserError: no such file, not written by ``zoo export``, the device has no provider, or the graph resizes by
            itself, so that it would do so to pixels that are resized already.
    """
    if not path.is_file():
        raise UserError(f"no ONNX file at {path}")
    engine = OnnxEngine(path, device=device or "cpu")
    file = engine.file
    if file.pixels == "any" and file.preprocessing.resize != file.preprocessing.input_size:
        raise UserError(f"{path} resizes by itself, for other programs: `zoo export --pixels crop` makes one for zoo")
    # of a graph that normalises the embeddings have length 1, asked for or not; the manifest must say so
    return Embedder(engine, file.preprocessing, normalize or file.normalize, file.about)


def read_metadata(metadata: dict[str, str], path: Path) -> OnnxFile:
    """The JSON that ``export.py`` left.

    Raises:
        UserError: there is none, or one of another version.
    """
    try:
        values = json.loads(metadata[METADATA])
    except (KeyError, ValueError):
        raise UserError(f"{path} was not written by `zoo export`: it does not say its preprocessing") from None
    try:
        if values["format"] != FORMAT:
            raise ValueError
        preprocessing = Preprocessing.from_json(values["preprocessing"])
        return OnnxFile(values["about"], preprocessing, values["normalize"], values["pixels"], values["precision"])
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} was written by another version of `zoo export`: export it again") from None


def _provider(device: str, available: list[str]) -> tuple[str, dict[str, str]]:
    kind, _, number = device.partition(":")
    name = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(kind)
    if name is None or (number and not number.isdecimal()):
        raise UserError(f"ONNX Runtime runs on cpu, cuda or cuda:N here, not on {device!r}")
    if name not in available:
        raise UserError(
            f"ONNX Runtime here has no {name}{_both_installed()}: pip install onnxruntime-gpu, or use --device cpu"
        )
    return name, {"device_id": number or "0"} if kind == "cuda" else {}


def _both_installed() -> str:
    """The two packages share a folder, and the one that was installed first is broken without a word."""
    if sum(_installed(name) is not None for name in _PACKAGES) < 2:
        return ""
    return " (onnxruntime and onnxruntime-gpu are both installed and break each other: uninstall both, install one)"


def import_onnxruntime() -> Any:
    """The module, or a UserError that says how to install it."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("the ONNX backend needs onnxruntime: pip install 'siamese-zoo[onnx]'") from None
    return onnxruntime


def runtime_version() -> str:
    """Of whichever of the two packages is installed."""
    for name in _PACKAGES:
        if found := _installed(name):
            return f"{found} ({name})"
    return "unknown"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
