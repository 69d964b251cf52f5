"""What ``hubconf.py`` calls: a bare torch module by name, tag or path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.hub.weights import WeightFile, is_hub_reference, load_encoder, locate
from zoo.models import registry

if TYPE_CHECKING:
    from torch import nn


def load_module(
    name: str,
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    progress: bool = True,
    num_classes: int = 0,
    features_only: bool = False,
) -> nn.Module:
    """The encoder of ``name`` on the CPU, in eval mode, with its ``preprocessing`` as an attribute.

    Args:
        pretrained: ``False`` gives random weights.
        weights: a tag of ``name``, ``hf-hub:ORG/NAME@REVISION``, or the path of a safetensors file or of a folder of
            ``zoo convert``, of the same architecture.
        progress: say how far a download is.
        num_classes: above 0, a fresh linear layer [N, D] -> [N, num_classes] follows the encoder.
        features_only: timm's feature pyramid instead: [N, 3, H, W] -> five maps, at stride 2 to 32.

    Raises:
        UserError: no such weights, a file of another architecture, or both of the last two.
    """
    if num_classes and features_only:
        raise UserError("num_classes and features_only contradict each other: a pyramid has no classifier")
    if num_classes < 0:
        raise UserError(f"num_classes is {num_classes}: 0 gives embeddings, above 0 a classifier")
    file = _locate(name, pretrained, weights, progress)
    module = load_encoder(file)
    if features_only:
        from timm.models._features import FeatureGetterNet

        module = FeatureGetterNet(module, out_indices=(0, 1, 2, 3, 4)).eval()
    elif num_classes:
        module.reset_classifier(num_classes)  # type: ignore[operator]
    module.preprocessing = file.preprocessing  # type: ignore[assignment]
    return module


def _locate(name: str, pretrained: bool, weights: str | Path | None, progress: bool) -> WeightFile:
    spec = registry.find(name)
    if weights is None:
        return _named(name, pretrained, progress)
    if not pretrained:
        raise UserError(f"{name}: weights={str(weights)!r} and pretrained=False contradict each other")
    if str(weights) in spec.weights:
        return _named(f"{name}.{weights}", True, progress)
    if not is_hub_reference(weights) and not Path(weights).exists():
        tags = ", ".join(spec.weights) or "none"
        raise UserError(f"{name} has no weights {str(weights)!r}: give one of its tags ({tags}) or a path")
    file = locate(weights if is_hub_reference(weights) else Path(weights))
    expected = registry.ARCHITECTURES[spec.architecture].num_features
    if file.architecture.num_features != expected:
        raise UserError(f"{weights} gives {file.architecture.num_features} features, {name} has {expected}")
    return file


def _named(name: str, pretrained: bool, progress: bool) -> WeightFile:
    """Weights of the registry, the official ones downloaded first if they are not here yet."""
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if pretrained and progress and tag is not None and tag in spec.weights and not spec.weights[tag].bundled:
        from zoo.hub.pretrained import fetch

        fetch(spec, tag, progress=_percent(name))
    return locate(name, pretrained=pretrained)


def _percent(name: str) -> Callable[[int, int | None], None]:
    """A line on stderr for every tenth; the package's own bar needs rich, which torch.hub's users may not have."""
    told = 0

    def tell(done: int, total: int | None) -> None:
        nonlocal told
        if total and 10 * done // total > told:
            told = 10 * done // total
            print(f"{name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr, flush=True)

    return tell
