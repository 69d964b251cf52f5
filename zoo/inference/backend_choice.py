"""Choose the backend that runs a model on this machine: torch or ONNX Runtime.

``backend="auto"`` follows this rule. It depends on the request and on the installed packages, never on a timing, so
that the same command makes the same bytes on one kind of machine:

1. int8 runs on ONNX Runtime. bf16, outputs that only torch has, and random weights (the ONNX cache is keyed by the
   weights' hash, which they lack) run on torch.
2. A device other than the CPU, or no device where a GPU is available: torch, in fp32 unless the request says otherwise.
3. On a CPU: ONNX Runtime in fp32 where onnxruntime, onnx and onnxscript are installed. It is faster than torch, and its
   embeddings agree to 1e-4. Otherwise torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from zoo.errors import UserError
from zoo.system.hardware import gpu_in_sight

BACKENDS = ("auto", "torch", "onnx")
PRECISIONS = {"torch": ("fp32", "bf16"), "onnx": ("fp32", "int8")}
_INSTALL = "pip install 'siamese-zoo[onnx]'"


@dataclass(frozen=True)
class BackendChoice:
    """``backend`` is ``torch`` or ``onnx``; ``reason`` explains the choice in a few words."""

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
    if choice.backend == "onnx" and torch_only:
        raise UserError(f"{torch_only} needs --backend torch")
    if choice.backend == "onnx" and random:
        raise UserError("the ONNX backend runs exported weights: a random network needs --backend torch")
    return choice


def _rule(device: str | None, precision: str, random: bool, torch_only: str | None) -> BackendChoice:
    # What only torch can do.
    if torch_only:
        return BackendChoice("torch", f"for {torch_only}")
    # A precision belongs to one backend.
    if precision != "fp32":
        return BackendChoice(next(b for b, known in PRECISIONS.items() if precision in known), f"for {precision}")
    # Hardware and installed packages decide the rest.
    if random:
        return BackendChoice("torch", "random weights")
    if device not in (None, "cpu"):
        return BackendChoice("torch", f"for {device}")
    if device is None and gpu_in_sight():
        return BackendChoice("torch", "a GPU is in sight")
    if missing := [name for name in ("onnxruntime", "onnx", "onnxscript") if find_spec(name) is None]:
        return BackendChoice("torch", f"{missing[0]} is not installed; {_INSTALL} is faster on a CPU")
    return BackendChoice("onnx", "the fastest on a CPU")
