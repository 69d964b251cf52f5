"""Self-supervised ResNet features: ``zoo.load``, ``zoo.extract``, ``zoo.list_models``, ``zoo.Embedder``,
``zoo.Outputs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.version import __version__

__all__ = ["Embedder", "Outputs", "UserError", "__version__", "extract", "list_models", "load"]

if TYPE_CHECKING:
    from zoo.api import extract
    from zoo.errors import UserError
    from zoo.inference.embedder import Embedder
    from zoo.inference.outputs import Outputs
    from zoo.loading import list_models, load

_HOMES = {
    "Embedder": "zoo.inference.embedder",
    "Outputs": "zoo.inference.outputs",
    "UserError": "zoo.errors",
    "extract": "zoo.api",
    "list_models": "zoo.loading",
    "load": "zoo.loading",
}


def __getattr__(name: str) -> Any:
    # numpy, Pillow and torch are imported when they are used: `zoo --help` must answer at once
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
