"""Make tensors as torch does by default, whatever defaults the caller of this library has set."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


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
