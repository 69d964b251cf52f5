"""What ``hubconf.py`` calls: a bare torch module by name, tag or path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo import registry
from zoo.api import load
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def load_module(name: str, *, pretrained: bool = True, weights: str | Path | None = None) -> nn.Module:
    """The encoder of ``name`` on the CPU, in eval mode, with its ``preprocessing`` as an attribute.

    Args:
        pretrained: ``False`` gives random weights.
        weights: a tag of ``name``, or the path of a safetensors file of the same architecture.

    Raises:
        UserError: no such weights, or a file of another architecture.
    """
    if weights is None:
        embedder = load(name, pretrained=pretrained, device="cpu")
    elif not pretrained:
        raise UserError(f"{name}: weights={str(weights)!r} and pretrained=False contradict each other")
    elif str(weights) in registry.find(name).weights:
        embedder = load(f"{name}.{weights}", device="cpu")
    elif Path(weights).is_file():
        embedder = load(Path(weights), device="cpu")
        expected = registry.ARCHITECTURES[registry.find(name).architecture].num_features
        if embedder.dim != expected:
            raise UserError(f"{weights} gives {embedder.dim} features, {name} has {expected}")
    else:
        tags = ", ".join(registry.find(name).weights) or "none"
        raise UserError(f"{name} has no weights {str(weights)!r}: give one of its tags ({tags}) or a path")
    module = embedder.model
    module.preprocessing = embedder.preprocessing  # type: ignore[assignment]
    return module
