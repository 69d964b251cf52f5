"""What ``hubconf.py`` calls: a bare torch module by name, tag or path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo import registry
from zoo.errors import UserError
from zoo.weights import load_encoder, locate

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
    spec = registry.find(name)
    if weights is None:
        file = locate(name, pretrained=pretrained)
    elif not pretrained:
        raise UserError(f"{name}: weights={str(weights)!r} and pretrained=False contradict each other")
    elif str(weights) in spec.weights:
        file = locate(f"{name}.{weights}")
    elif Path(weights).is_file():
        file = locate(Path(weights))
        expected = registry.ARCHITECTURES[spec.architecture]
        if file.architecture.num_features != expected.num_features:
            found = file.architecture.num_features
            raise UserError(f"{weights} gives {found} features, {name} has {expected.num_features}")
    else:
        tags = ", ".join(spec.weights) or "none"
        raise UserError(f"{name} has no weights {str(weights)!r}: give one of its tags ({tags}) or a path")
    module = load_encoder(file)
    module.preprocessing = file.preprocessing  # type: ignore[assignment]
    return module
