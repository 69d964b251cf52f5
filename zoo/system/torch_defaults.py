"""Compute in float32 as its name says, whatever defaults a program has set in torch for its other networks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def float32_on_cpu() -> Iterator[None]:
    """Let new tensors be float32 on the CPU.

    A program may have called ``torch.set_default_dtype(torch.bfloat16)`` or ``torch.set_default_device("cuda")`` for
    another network: weights that are read here keep their precision, and go where ``device`` says.
    """
    torch = sys.modules.get("torch")  # not imported yet: nobody has set anything
    if torch is None:
        yield
        return
    with ExitStack() as stack:
        if (dtype := torch.get_default_dtype()) != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


class _FullFloat32:
    """Turns shorter multiplications off when the first thread comes in, and restores them when the last one leaves.

    By torch's newer settings, one for each operation: the older ones cannot be read where a program has mixed both.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, list[str]()

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [kind.fp32_precision for kind in _kinds()]
                for kind in _kinds():
                    kind.fp32_precision = "ieee"
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for kind, value in zip(_kinds(), self._before, strict=True):
                    kind.fp32_precision = value


def _kinds() -> list[Any]:
    """Return the operations whose float32 torch may shorten; their setting is ``fp32_precision``.

    https://docs.pytorch.org/docs/stable/notes/mkldnn.html and .../notes/cuda.html: TF32 on a GPU, where convolutions
    have it by default; TF32 or bf16 on a CPU after ``torch.set_float32_matmul_precision("medium")``.
    """
    import torch

    backends: Any = torch.backends  # its submodules have no stubs for these
    return [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv]


_FULL = _FullFloat32()


@contextmanager
def full_float32(wanted: bool = True) -> Iterator[None]:
    """Multiply float32 in float32, not in TF32 or bf16, if ``wanted``."""
    if not wanted:
        yield
        return
    _FULL.enter()
    try:
        yield
    finally:
        _FULL.leave()
