"""Turns running out of memory, on the device or the host, into one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zoo.errors import UserError

_MESSAGES = ("out of memory", "can't allocate memory", "failed to allocate")  # in torch's plain RuntimeErrors


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """A context for the work of a run.

    Raises:
        UserError: instead of what torch raises when it runs out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Recognise the errors of all devices, whose types differ.
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not out_of_memory and not any(message in str(error).lower() for message in _MESSAGES):
            raise
        raise UserError(
            "out of memory: --set accumulate=2 halves what a step needs (or use a smaller optim.batch_size, "
            "precision=bf16, checkpoint_activations=true)"
        ) from None
