"""Too little memory, on the device or the host, as a line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zoo.errors import UserError

_SIGNS = ("out of memory", "can't allocate memory", "failed to allocate")  # of torch's plain RuntimeErrors


@contextmanager
def enough_memory() -> Iterator[None]:
    """Around the work of a run.

    Raises:
        UserError: in place of what torch raises when memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        lack = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not lack and not any(sign in str(error).lower() for sign in _SIGNS):
            raise
        raise UserError(
            "out of memory: --set accumulate=2 halves what a step needs (or a smaller optim.batch_size, "
            "precision=bf16, checkpoint_activations=true)"
        ) from None
