"""Choose the backend that runs a model on this machine: torch, ONNX Runtime or OpenVINO.

``backend="auto"`` follows this rule. It depends on the request, on the installed packages and on the CPU's
instructions, never on a timing, so that the same command makes the same bytes on one kind of machine:

1. Outputs that only torch has, and random weights (the ONNX cache is keyed by the weights' hash, which they lack) run
   on torch. bf16 and int8 run on OpenVINO where it is installed, the device is a CPU, and the CPU has instructions for
   them (AMX or AVX512-BF16; AMX or AVX512-VNNI); else bf16 runs on torch and int8 on ONNX Runtime.
2. A device other than the CPU, or no device where a GPU is available: torch, in fp32 unless the request says otherwise.
3. On a CPU: ONNX Runtime in fp32 where onnxruntime, onnx and onnxscript are installed. It is faster than torch, and its
   embeddings agree to 1e-4. Otherwise torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from zoo.errors import UserError
from zoo.system.hardware import cpu_features, gpu_in_sight

BACKENDS = ("auto", "torch", "onnx", "openvino")
PRECISIONS = {"torch": ("fp32", "bf16"), "onnx": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}
ON_CPU = ("onnx", "openvino")
"""The backends that run on the CPU unless another device is asked for."""
# Instructions that make OpenVINO faster, by /proc/cpuinfo's names. Measured with AMX: int8 2.7 times ONNX Runtime, bf16
# 2 to 6 times fp32; with AVX512: int8 1.2 to 2 times ONNX Runtime, bf16 1.6 to 2.2 times fp32, of the forward alone
# (benchmarks/results/openvino.json).
_FAST = {"bf16": ("amx_bf16", "avx512_bf16"), "int8": ("amx_int8", "avx512_vnni")}
_RUNTIME = ("onnxruntime", "onnx", "onnxscript")
_NAMES = {"onnx": "ONNX", "openvino": "OpenVINO"}
_INSTALL = "pip install 'siamese-zoo[onnx]'"


@dataclass(frozen=True)
class BackendChoice:
    """``backend`` is ``torch``, ``onnx`` or ``openvino``; ``reason`` explains the choice in a few words."""

    backend: str
    reason: str


def choose(
    backend: str, *, device: str | None, precision: str, random: bool = False, torch_only: str | None = None
) -> BackendChoice:
    """Return the requested backend, or for ``auto`` the one by the rule of this module.

    Args:
        random: the network has random weights.
        torch_only: a requested option that only torch supports.

    Raises:
        UserError: a name is unknown, or no backend supports the combination.
    """
    # Refuse unknown names.
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}: one of {', '.join(BACKENDS)}")
    known = [name for names in PRECISIONS.values() for name in names]
    if precision not in known:
        raise UserError(f"unknown precision {precision!r}: one of {', '.join(dict.fromkeys(known))}")
    # Choose, unless the user has.
    choice = _rule(device, precision, random, torch_only) if backend == "auto" else BackendChoice(backend, "asked for")
    # Refuse what the chosen backend cannot do.
    if precision not in PRECISIONS[choice.backend]:
        other = next(name for name, precisions in PRECISIONS.items() if precision in precisions)
        raise UserError(f"--precision {precision} needs --backend {other}")
    if choice.backend in ON_CPU and torch_only:
        raise UserError(f"{torch_only} needs --backend torch")
    if choice.backend in ON_CPU and random:
        name = _NAMES[choice.backend]
        raise UserError(f"the {name} backend runs exported weights: a random network needs --backend torch")
    return choice


def _rule(device: str | None, precision: str, random: bool, torch_only: str | None) -> BackendChoice:
    # What only torch can do.
    if torch_only:
        return BackendChoice("torch", f"for {torch_only}")
    # A precision belongs to one backend, or to the one that has instructions for it.
    if not random and (feature := _fast_on_openvino(device, precision)):
        return BackendChoice("openvino", f"for {precision} with {feature}")
    if precision != "fp32":
        return BackendChoice(next(b for b, known in PRECISIONS.items() if precision in known), f"for {precision}")
    # Hardware and installed packages decide the rest.
    if random:
        return BackendChoice("torch", "random weights")
    if device not in (None, "cpu"):
        return BackendChoice("torch", f"for {device}")
    if device is None and gpu_in_sight():
        return BackendChoice("torch", "a GPU is in sight")
    if missing := [name for name in _RUNTIME if find_spec(name) is None]:
        return BackendChoice("torch", f"{missing[0]} is not installed; {_INSTALL} is faster on a CPU")
    return BackendChoice("onnx", "the fastest on a CPU")


def _fast_on_openvino(device: str | None, precision: str) -> str | None:
    """Return the CPU's instruction with which OpenVINO is the fastest in a precision; ``None`` where it is not."""
    if precision not in _FAST or device not in (None, "cpu"):
        return None
    if precision == "bf16" and device is None and gpu_in_sight():
        return None
    features = cpu_features()
    feature = next((name for name in _FAST[precision] if name in features), None)
    return feature if feature and all(find_spec(name) for name in ("openvino", *_RUNTIME)) else None
