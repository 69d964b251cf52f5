"""Self-supervised ResNet features: ``zoo.load``, ``zoo.extract``, ``zoo.read``, ``zoo.list_models``, ``zoo.Embedder``,
``zoo.Embeddings``, ``zoo.Outputs``. This file only re-exports; ``import zoo`` imports neither numpy nor torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.version import __version__

__all__ = [
    "Embedder",
    "Embeddings",
    "Outputs",
    "UserError",
    "__version__",
    "extract",
    "list_models",
    "load",
    "read",
]

if TYPE_CHECKING:
    from zoo.api import extract
    from zoo.embeddings.reading import read
    from zoo.embeddings.result import Embeddings
    from zoo.errors import UserError
    from zoo.inference.embedder import Embedder
    from zoo.inference.outputs import Outputs
    from zoo.loading import list_models, load

_MODULES = {
    "Embedder": "zoo.inference.embedder",
    "Embeddings": "zoo.embeddings.result",
    "Outputs": "zoo.inference.outputs",
    "UserError": "zoo.errors",
    "extract": "zoo.api",
    "list_models": "zoo.loading",
    "load": "zoo.loading",
    "read": "zoo.embeddings.reading",
}


def __getattr__(name: str) -> object:
    # numpy, Pillow and torch are imported on first use, so that `zoo --help` answers at once
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    # what a notebook completes after `zoo.`
    return sorted({*__all__, *globals()} - {"TYPE_CHECKING", "annotations"})
