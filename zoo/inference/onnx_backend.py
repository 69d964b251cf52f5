"""Run an exported network on ONNX Runtime, without importing torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError, reason_of
from zoo.inference.embedder import Embedder, Engine
from zoo.inference.onnx_bounds import require_bounded
from zoo.inference.onnx_checks import require_self_contained
from zoo.inference.outputs import EMBEDDING_ONLY, Outputs
from zoo.inference.weights_info import WeightsInfo
from zoo.models.config_reader import line_of_text
from zoo.system.atomic_files import sha256_file
from zoo.system.hardware import adds_int8_in_16_bits, devices_here, usable_cores
from zoo.system.shortage import raise_if_short, require_addresses
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from zoo.models.head_spec import EncoderHeads

METADATA = "siamese-zoo"  # metadata key under which ``zoo.export.export`` stores a JSON
FORMAT = 2  # of that JSON and of the graph; a new number renews all cached files
_OF_PARENTS: list[object] = []  # sessions that a forked process has inherited and cannot end
_MAX_DIM = 1 << 16
_KINDS = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}  # names of ONNX Runtime
WEIGHT_BITS = 7  # of int8 weights that are right on every CPU, see ``zoo.export.quantize``
_PIXELS, _PRECISIONS = ("any", "crop", "normalised"), ("fp32", "fp16", "int8")
_PACKAGES = ("onnxruntime-gpu", "onnxruntime")
# Addresses that the library takes to start, that a thread's stack takes, and that a session takes per byte of its file.
_LIBRARY_BYTES, _STACK_BYTES, _COPIES = 128 << 20, 8 << 20, 3

# fp32 is full float32, and the algorithm of a convolution is not chosen by a clock: the same bytes in every run.
# https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html: by default TF32 and a search by time
_ON_A_GPU = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


class OnnxEngine:
    """A file of ``zoo export`` on ONNX Runtime, on the CPU (all cores that this process may use) or a GPU.

    Args:
        path: the file; one that refers to data in other files is refused.
        device: ``cpu``, ``cuda`` or ``cuda:N``; there is no fallback from one to the other.

    Raises:
        UserError: there is no such device here, or no ONNX file that runs.
    """

    backend = "onnx"

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        # Check the file before the runtime opens it.
        ort = import_onnxruntime()
        require_self_contained(path)
        require_bounded(path)
        self._path, self._provider = path, _provider(device, ort.get_available_providers())
        self._session = self._start()
        # Keep what callers ask about the file.
        self.device = device
        try:
            self._input, self.dim = _input_and_dim(self._session)
            (given,), (made,) = self._session.get_inputs(), self._session.get_outputs()
            self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except ValueError:  # a UnicodeDecodeError, too: names are the file's
            raise UserError(f"{path} was not written by `zoo export`: it does not map images to embeddings") from None
        self.versions = {"onnxruntime": runtime_version(), "onnx_file": sha256_file(path)}
        self.file = read_metadata(self.metadata, path)
        sides = [side if type(side) is int else None for side in given.shape]
        self.file.require_graph(_KINDS.get(given.type, given.type), _KINDS.get(made.type, made.type), sides, path)
        self.precision = self.file.precision
        if device == "cpu":
            self.file.require_cpu(path)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxEngine:
        """A session never changes, and several threads may use it: copies share it."""
        return self

    def _start(self) -> Any:
        ort, path, provider = import_onnxruntime(), self._path, self._provider
        # Set the session up for a process that also decodes images.
        options = ort.SessionOptions()
        options.log_severity_level = 4  # an error is raised, and printed once
        options.intra_op_num_threads = usable_cores()  # its own count ignores the process's affinity and limits
        # its threads must not spin between two batches, when the cores decode images
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Start the session, and refuse a silent fall-back to the CPU.
        needed = (_LIBRARY_BYTES >> 1) + _STACK_BYTES * usable_cores() + _COPIES * path.stat().st_size
        require_addresses(needed, f"a session of ONNX Runtime with {path.name}")
        try:
            # with its fall-back the library prints an error before it tries again and raises
            session = ort.InferenceSession(str(path), options, providers=[provider], enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise_if_short(error)
            raise UserError(f"{path} is not an ONNX file that runs here: {reason_of(error)}") from None
        if provider[0] not in session.get_providers():  # ONNX Runtime itself falls back with a warning
            raise UserError(f"ONNX Runtime could not start {provider[0]}{_both_installed()}: use --device cpu")
        self._process = os.getpid()
        return session

    def _session_of_this_process(self) -> Any:
        """Return the session; a forked process starts its own, because the threads of its parent's are not there."""
        if self._process != os.getpid():
            if self._provider[0] != "CPUExecutionProvider":
                raise UserError("a GPU cannot be used in a forked process: start it with spawn")
            if sha256_file(self._path) != self.versions["onnx_file"]:
                raise UserError(f"{self._path} was changed since it was opened: open it again")
            _OF_PARENTS.append(self._session)  # ending it would wait for its threads
            self._session = self._start()
        return self._session

    def run(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Run the graph on its own kind of input: float32 [N, D]."""
        session = self._session_of_this_process()
        try:
            result: NDArray[np.float32] = session.run(["embedding"], {self._input: inputs})[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise_if_short(error)
            raise UserError(f"{self._path} fails on {len(inputs)} images: {reason_of(error)}") from None
        require_rows(result, inputs, self.dim, self._path)
        return result

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, S, S, 3], resized and cropped already -> float32 [N, D]."""
        return self.run(self.file.inputs(pixels))


@dataclass(frozen=True)
class OnnxMetadata:
    """The metadata that ``zoo.export.export`` stores in a file.

    Attributes:
        weights_info: facts about the weights.
        preprocessing: transform that the network expects.
        normalize: True if the graph ends in an l2 norm.
        pixels: kind of input, see ``zoo.export.export.Variant``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        weight_bits: of int8 weights; earlier versions did not write them, and had 8.
    """

    weights_info: WeightsInfo
    preprocessing: Preprocessing
    normalize: bool
    pixels: str
    precision: str
    weight_bits: int = 8

    def require_cpu(self, path: Path) -> None:
        """Raise UserError if the sums of int8 weights of 8 bits overflow on this CPU; embeddings would be wrong."""
        if self.precision == "int8" and self.weight_bits > WEIGHT_BITS and adds_int8_in_16_bits():
            raise UserError(
                f"{path} has int8 weights of {self.weight_bits} bits, and their sums overflow on this CPU, which has "
                "no VNNI instructions: export it again, or use fp32"
            )

    def require_graph(self, given: str, made: str, sides: Sequence[int | None], path: Path) -> None:
        """Compare the graph with what the metadata say of it.

        Args:
            given, made: kinds of the input's and of the embedding's numbers, ``uint8`` or ``float32``.
            sides: of the input; ``None`` where one is not fixed.

        Raises:
            UserError: it takes other arrays than ``inputs`` makes, or gives no float32.
        """
        side, channels = self.preprocessing.input_size, self.preprocessing.channels
        expected = {
            "any": (None, None, None, channels),
            "crop": (None, side, side, channels),
            "normalised": (None, channels, side, side),
        }[self.pixels]
        fits = len(sides) == 4 and all(found in (None, known) for found, known in zip(sides, expected, strict=True))
        if not fits or given != ("float32" if self.pixels == "normalised" else "uint8") or made != "float32":
            raise UserError(
                f"{path} takes {given} {list(sides)} and gives {made}, which is not what its metadata say: export it "
                "again"
            )

    def inputs(self, pixels: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Pixels uint8 [N, S, S, 3], resized and cropped -> what the graph takes: the same, or normalised floats."""
        return self.preprocessing.normalise(pixels) if self.pixels == "normalised" else pixels


def open_onnx(
    path: Path,
    *,
    device: str | None = None,
    normalize: bool = False,
    requested: Outputs = EMBEDDING_ONLY,
    heads: EncoderHeads | None = None,
    heads_sha256: str | None = None,
    backend_reason: str = "asked for",
) -> Embedder:
    """Make an embedder that runs a file of ``zoo export`` on ONNX Runtime; see ``Embedder`` for the arguments.

    Args:
        device: ``None`` is the CPU.
        heads_sha256: hash of the heads, if outputs depend on them.

    Raises:
        UserError: there is no such file, ``zoo export`` did not write it, the device has no provider, or the graph
            resizes by itself and so would resize pixels twice.
    """
    if not os.path.isfile(path):
        raise UserError(f"no ONNX file at {path}")
    engine = OnnxEngine(path, device=device or "cpu")
    return embedder_of(engine, path, normalize, requested, heads, heads_sha256, backend_reason)


class ExportedEngine(Engine, Protocol):
    """An engine that runs a file of ``zoo export``."""

    file: OnnxMetadata


def embedder_of(
    engine: ExportedEngine,
    path: Path,
    normalize: bool,
    requested: Outputs,
    heads: EncoderHeads | None,
    heads_sha256: str | None,
    backend_reason: str,
) -> Embedder:
    """Make an embedder of an engine that has opened the file ``path``; see ``open_onnx``.

    Raises:
        UserError: the graph resizes by itself and so would resize pixels twice.
    """
    file = engine.file
    if file.pixels == "any" and file.preprocessing.resize != file.preprocessing.input_size:
        raise UserError(f"{path} resizes by itself, for other programs: `zoo export --pixels crop` makes one for zoo")
    # a graph with an l2 norm gives embeddings of length 1 in any case, and the manifest must say so
    normalize = normalize or file.normalize
    info: WeightsInfo = {**file.weights_info, "heads_sha256": heads_sha256} if requested.heads else file.weights_info
    return Embedder(engine, file.preprocessing, normalize, info, heads, backend_reason, requested)


def read_metadata(metadata: dict[str, str], path: Path) -> OnnxMetadata:
    """Parse the metadata of ``zoo.export.export``.

    Raises:
        UserError: there is none, or another version wrote it.
    """
    try:
        values = json.loads(metadata[METADATA])
    except (KeyError, ValueError, RecursionError):
        raise UserError(f"{path} was not written by `zoo export`: it does not say its preprocessing") from None
    try:
        if values["format"] != FORMAT or type(values["normalize"]) is not bool:
            raise ValueError
        if values["pixels"] not in _PIXELS or values["precision"] not in _PRECISIONS:
            raise ValueError
        if not values["about"]["model"]:
            raise ValueError
        for text in values["about"].values():
            if text is not None:
                line_of_text(text)  # it is printed
        preprocessing = Preprocessing.from_json(values["preprocessing"])
        bits = values.get("weight_bits", 8)
        if type(bits) is not int:
            raise ValueError
        return OnnxMetadata(
            values["about"], preprocessing, values["normalize"], values["pixels"], values["precision"], bits
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path} was written by another version of `zoo export`: export it again") from None


def require_rows(found: NDArray[np.float32], inputs: NDArray[np.generic], dim: int, path: Path) -> None:
    """Raise UserError unless a graph gave one embedding for each image."""
    if found.shape != (len(inputs), dim):
        raise UserError(f"{path} gives {list(found.shape)} numbers for {len(inputs)} images: export it again")


def _input_and_dim(session: Any) -> tuple[str, int]:
    """Return the name of the input and the length of an embedding. ValueError: the graph has no such in- and output."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = [node.name for node in inputs]
    dim = require_embedding([node.name for node in outputs], [node.shape for node in outputs], names)
    return names[0], dim


def require_embedding(outputs: Sequence[object], shapes: Sequence[Sequence[object]], inputs: Sequence[object]) -> int:
    """Return the length of an embedding. ValueError: these are not the in- and outputs of a file of ``zoo export``."""
    if len(inputs) != 1 or len(outputs) != 1 or outputs[0] != "embedding" or len(shapes[0]) != 2:
        raise ValueError
    dim = shapes[0][1]
    if not isinstance(inputs[0], str) or type(dim) is not int or not 0 < dim <= _MAX_DIM:
        raise ValueError
    return dim


def _provider(device: str, available: list[str]) -> tuple[str, dict[str, str]]:
    kind, _, number = device.partition(":")
    name = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(kind)
    if name is None or (number and not number.isdecimal()):
        raise UserError(
            f"ONNX Runtime runs on cpu, cuda or cuda:N here, not on {device!r}: this machine has {devices_here()}"
        )
    if name not in available:
        raise UserError(
            f"ONNX Runtime here has no {name}{_both_installed()}: pip install onnxruntime-gpu, or use --device cpu"
        )
    return name, {"device_id": number or "0", **_ON_A_GPU} if kind == "cuda" else {}


def _both_installed() -> str:
    """Return a hint where both packages are installed: they share a folder, and the first one is silently broken."""
    if sum(_installed(name) is not None for name in _PACKAGES) < 2:
        return ""
    return " (onnxruntime and onnxruntime-gpu are both installed and break each other: uninstall both, install one)"


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime. Raises UserError, which says how to install it."""
    if "onnxruntime" not in sys.modules:
        require_addresses(_LIBRARY_BYTES, "ONNX Runtime")
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise_if_short(error)
        raise UserError("the ONNX backend needs onnxruntime: pip install 'siamese-zoo[onnx]'") from None


def runtime_version() -> str:
    """Return version and name of the installed package."""
    for name in _PACKAGES:
        if found := _installed(name):
            return f"{found} ({name})"
    return "unknown"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
