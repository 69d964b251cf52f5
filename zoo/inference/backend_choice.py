"""Choose the engine that runs a model on this machine.

The rule of ``backend="auto"``. It looks at what is asked for and installed, never at a clock, so that the same
command makes the same bytes on one kind of machine:

1. int8 runs on ONNX Runtime, bf16 on torch, and so does what only torch can do; so do random weights, which have no
   file an ONNX file could be named after.
2. A device other than the CPU, or none asked for where a GPU is in sight: torch, in fp32 unless asked otherwise.
3. On a CPU: ONNX Runtime in fp32 where onnxruntime, onnx and onnxscript are installed, which is faster than torch at
   embeddings that agree to 1e-4; else torch.
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
class Choice:
    """``backend`` is torch or onnx; ``reason`` says why, in a few words."""

    backend: str
    reason: str


def choose(
    backend: str, *, device: str | None, precision: str, random: bool = False, only_torch: str | None = None
) -> Choice:
    """The engine by the rule above, or the one that was asked for.

    Args:
        random: the network has no weights.
        only_torch: what was asked for that only torch can do.

    Raises:
        UserError: unknown names, or two wishes that no engine fulfils together.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}: one of {', '.join(BACKENDS)}")
    known = [name for names in PRECISIONS.values() for name in names]
    if precision not in known:
        raise UserError(f"unknown precision {precision!r}: one of {', '.join(dict.fromkeys(known))}")
    choice = Choice(backend, "asked for") if backend != "auto" else _rule(device, precision, random, only_torch)
    if precision not in PRECISIONS[choice.backend]:
        other = next(name for name, precisions in PRECISIONS.items() if precision in precisions)
        raise UserError(f"--precision {precision} needs --backend {other}")
    if choice.backend == "onnx" and only_torch:
        raise UserError(f"{only_torch} needs --backend torch")
    if choice.backend == "onnx" and random:
        raise UserError("the ONNX backend runs exported weights: a random network needs --backend torch")
    return choice


def _rule(device: str | None, precision: str, random: bool, only_torch: str | None) -> Choice:
    if only_torch:
        return Choice("torch", f"for {only_torch}")
    if precision != "fp32":
        return next(Choice(name, f"for {precision}") for name, known in PRECISIONS.items() if precision in known)
    if random:
        return Choice("torch", "random weights")
    if device not in (None, "cpu"):
        return Choice("torch", f"for {device}")
    if device is None and gpu_in_sight():
        return Choice("torch", "a GPU is in sight")
    if missing := [name for name in ("onnxruntime", "onnx", "onnxscript") if find_spec(name) is None]:
        return Choice("torch", f"{missing[0]} is not installed; {_INSTALL} is faster on a CPU")
    return Choice("onnx", "the fastest on a CPU")
