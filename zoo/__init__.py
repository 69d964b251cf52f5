"""Self-supervised ResNet features: ``zoo.load``, ``zoo.extract``, ``zoo.list_models``, ``zoo.Embedder``,
``zoo.Outputs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["Embedder", "Outputs", "UserError", "__version__", "extract", "list_models", "load"]

if TYPE_CHECKING:
    from zoo.api import extract, list_models, load
    from zoo.errors import UserError
    from zoo.inference.embedder import Embedder
    from zoo.inference.outputs import Outputs

_HOMES = {
    "Embedder": "zoo.inference.embedder",
    "Outputs": "zoo.inference.outputs",
    "UserError": "zoo.errors",
    "extract": "zoo.api",
    "list_models": "zoo.api",
    "load": "zoo.api",
}


def __getattr__(name: str) -> Any:
    # numpy, Pillow and torch are imported when they are used: `zoo --help` must answer at once
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
