"""How a pickled embedder is opened again in another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo.inference.torch_backend import TensorState


@dataclass(frozen=True)
class Reopening:
    """How an embedder is opened again.

    Attributes:
        open: returns the embedder.
        state: of its tensors when it was opened, to notice a change.
    """

    open: Callable[[], Any]
    state: TensorState
