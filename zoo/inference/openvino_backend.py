"""Run an exported network on OpenVINO, on the CPU, without importing torch.

OpenVINO reads the same file as ONNX Runtime. It uses a CPU's matrix units: in bf16 (AMX, AVX512-BF16) an fp32 file runs
in a fraction of the time, and so does an int8 file (AMX, AVX512-VNNI). See ``benchmarks/results/openvino.json``.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError, reason_of
from zoo.inference.embedder import Embedder
from zoo.inference.images import as_rgb
from zoo.inference.onnx_backend import OnnxEngine, embedder_of, read_metadata, require_embedding, require_rows
from zoo.inference.onnx_bounds import require_bounded
from zoo.inference.onnx_checks import require_self_contained
from zoo.inference.outputs import EMBEDDING_ONLY, Outputs
from zoo.inference.parity import shipped_photographs, smallest_cosine
from zoo.system.atomic_files import sha256_file
from zoo.system.hardware import devices_here, usable_cores
from zoo.system.shortage import raise_if_short

if TYPE_CHECKING:
    from zoo.models.head_spec import EncoderHeads

# Lower limits of the cosine with ONNX Runtime on the same file, on the shipped photographs. `zoo export` has compared
# that with torch. benchmarks/results/precision.json holds measured ones.
LEAST_COSINE = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.999, "int8": 0.995}
_HINTS = {"fp32": "f32", "fp16": "f32", "int8": "f32", "bf16": "bf16"}  # on a CPU with bf16, OpenVINO's own is bf16
_OF_PARENTS: list[object] = []  # models that a forked process has inherited and cannot end


class OpenVinoEngine:
    """A file of ``zoo export`` on OpenVINO, on all cores of the CPU that this process may use.

    Args:
        path: the file; one that refers to data in other files is refused.
        precision: ``fp32``, ``bf16`` or ``int8``; an int8 or fp16 file has its own, and ``fp32`` leaves it that.
        device: ``cpu``.

    Raises:
        UserError: OpenVINO is not installed, there is no such device, or no file that runs in this precision.
    """

    backend = "openvino"

    def __init__(self, path: Path, *, precision: str = "fp32", device: str = "cpu") -> None:
        openvino = import_openvino()
        # Check the file before the library opens it.
        if device != "cpu":
            raise UserError(f"OpenVINO runs on cpu here, not on {device!r}: this machine has {devices_here()}")
        require_self_contained(path)
        require_bounded(path)
        self._path, self.device = path, device
        # Read what callers ask about the file.
        model = self._read()
        try:
            self.dim = require_embedding(
                [node.get_any_name() for node in model.outputs],
                [_sides(node) for node in model.outputs],
                [node.get_any_name() for node in model.inputs],
            )
            self.metadata = _metadata(model)
        except (ValueError, RuntimeError):
            raise UserError(f"{path} was not written by `zoo export`: it does not map images to embeddings") from None
        self.file = read_metadata(self.metadata, path)
        given, made = (_kind(node) for node in (model.inputs[0], model.outputs[0]))
        self.file.require_graph(given, made, _sides(model.inputs[0]), path)
        self.file.require_cpu(path)
        self.precision = _precision(precision, self.file.precision, path)
        if self.precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError("this CPU has no instructions for bf16 (AMX or AVX512-BF16): use --backend torch, or fp32")
        self.versions = {"openvino": str(openvino.__version__), "onnx_file": sha256_file(path)}
        self._start(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVinoEngine:
        """A compiled model never changes, and several threads may use it: copies share it."""
        return self

    def _read(self) -> Any:
        try:
            return import_openvino().Core().read_model(str(self._path))
        except Exception as error:  # RuntimeError for nearly everything
            raise_if_short(error)
            raise UserError(f"{self._path} is not an ONNX file that runs here: {reason_of(error)}") from None

    def _start(self, model: Any) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "INFERENCE_NUM_THREADS": usable_cores(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the same cores decode images, and other processes use them
        }
        try:
            compiled = import_openvino().Core().compile_model(model, "CPU", settings)
            self._request = compiled.create_infer_request()
        except Exception as error:  # as above
            raise_if_short(error)
            raise UserError(f"OpenVINO cannot run {self._path} here: {reason_of(error)}") from None
        self._lock, self._process = threading.Lock(), os.getpid()

    def run(self, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        """Run the graph on its own kind of input: float32 [N, D]."""
        if self._process != os.getpid():  # the threads of the parent's model are not here
            if sha256_file(self._path) != self.versions["onnx_file"]:
                raise UserError(f"{self._path} was changed since it was opened: open it again")
            _OF_PARENTS.append(self._request)
            self._start(self._read())
        with self._lock:
            try:
                result = self._request.infer({0: np.ascontiguousarray(inputs)}, share_inputs=True)[0]
            except Exception as error:  # as above
                raise_if_short(error)
                raise UserError(f"{self._path} fails on {len(inputs)} images: {reason_of(error)}") from None
            found = np.array(result, np.float32)
        require_rows(found, inputs, self.dim, self._path)
        return found

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, S, S, 3], resized and cropped already -> float32 [N, D]."""
        return self.run(self.file.inputs(pixels))


def open_openvino(
    path: Path,
    *,
    precision: str = "fp32",
    device: str | None = None,
    normalize: bool = False,
    requested: Outputs = EMBEDDING_ONLY,
    heads: EncoderHeads | None = None,
    heads_sha256: str | None = None,
    backend_reason: str = "asked for",
) -> Embedder:
    """Make an embedder that runs a file of ``zoo export`` on OpenVINO; see ``Embedder`` for the arguments.

    Args:
        precision: as for ``OpenVinoEngine``.
        device: ``None`` is the CPU.
        heads_sha256: hash of the heads, if outputs depend on them.

    Raises:
        UserError: as ``OpenVinoEngine`` and ``zoo.inference.onnx_backend.open_onnx``; or the embeddings of the shipped
            photographs differ from ONNX Runtime's by more than ``LEAST_COSINE`` allows.
    """
    import_openvino()
    if not path.is_file():
        raise UserError(f"no ONNX file at {path}")
    engine = OpenVinoEngine(path, precision=precision, device=device or "cpu")
    embedder = embedder_of(engine, path, normalize, requested, heads, heads_sha256, backend_reason)
    require_parity(engine)
    return embedder


def require_parity(engine: OpenVinoEngine) -> None:
    """Compare the engine with ONNX Runtime on the same file and the shipped photographs.

    Raises:
        UserError: a cosine is below ``LEAST_COSINE``, or ONNX Runtime is not installed.
    """
    crops = np.stack([engine.file.preprocessing.pixels(as_rgb(path)) for path in shipped_photographs()])
    reference = OnnxEngine(engine._path)(crops)
    # A batch, and one row alone: the graph's batch size is not fixed.
    cosine = min(smallest_cosine(engine(crops), reference), smallest_cosine(engine(crops[:1]), reference[:1]))
    if not cosine >= (least := LEAST_COSINE[engine.precision]):
        raise UserError(
            f"OpenVINO {engine.versions['openvino']} in {engine.precision} differs from ONNX Runtime here: cosine "
            f"{cosine:.5f} on the shipped photographs, at least {least} is needed: use --backend onnx or torch"
        )


def import_openvino() -> ModuleType:
    """Import openvino. Raises UserError, which says how to install it."""
    try:
        return import_module("openvino")
    except ImportError as error:
        raise_if_short(error)
        raise UserError("the OpenVINO backend needs openvino: pip install 'siamese-zoo[openvino]'") from None


def _metadata(model: Any) -> dict[str, str]:
    """Return the metadata of the ONNX file, which OpenVINO keeps under ``framework``."""
    if not model.has_rt_info(["framework"]):
        return {}
    names = model.get_rt_info(["framework"]).value
    return {name: str(model.get_rt_info(["framework", name]).astype(str)) for name in names}


def _kind(node: Any) -> str:
    name = str(node.get_element_type().get_type_name())
    return {"u8": "uint8", "f32": "float32"}.get(name, name)


def _sides(node: Any) -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in node.get_partial_shape()]


def _precision(asked: str, of_file: str, path: Path) -> str:
    """Return the precision that runs: the file's own, or bf16 for an fp32 file."""
    if asked in ("fp32", of_file):
        return of_file
    if asked == "bf16" and of_file == "fp32":
        return asked
    raise UserError(f"{path} holds {of_file} numbers: --precision {asked} needs another file")
