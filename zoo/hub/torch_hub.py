"""The implementation of ``hubconf.py``: a bare torch module by name, tag or path."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.hub.networks import load_encoder
from zoo.hub.weights import WeightFile, is_hub_reference, locate
from zoo.models import registry
from zoo.models.backbones import require_stages
from zoo.system.terminal import print_line

if TYPE_CHECKING:
    from torch import nn

_ALL_MAPS = (0, 1, 2, 3, 4)
_MOST = 1 << 20  # classes or channels: far above any, and far below what memory could not hold


def load_module(
    name: str,
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    progress: bool = True,
    num_classes: int = 0,
    features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3, 4),
    in_chans: int = 3,
) -> nn.Module:
    """Load the encoder of ``name`` on the CPU, in eval mode, with its ``preprocessing`` as an attribute.

    Args:
        pretrained: ``False`` gives random weights.
        weights: a tag of ``name``, ``hf-hub:ORG/NAME@REVISION``, or the path of a safetensors file or of a folder of
            ``zoo convert``, with the same architecture.
        progress: print the progress of a download to stderr.
        num_classes: above 0, a new linear layer [N, D] -> [N, num_classes] follows the encoder.
        features_only: return timm's feature pyramid: [N, 3, H, W] -> maps, at stride 2 to 32. It can be scripted.
        out_indices: of 0 to 4: which maps.
        in_chans: channels of the input. Other than 3, the first layer's weights are summed or repeated, as timm does.

    Raises:
        UserError: there are no such weights, a file has another architecture, both ``num_classes`` and
            ``features_only`` are given, or one of them or ``in_chans`` of a network of split colours.
    """
    return _adapted(
        lambda: _locate(name, pretrained, weights, progress), num_classes, features_only, out_indices, in_chans
    )


def load_weights(
    weights: str | Path,
    *,
    num_classes: int = 0,
    features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3, 4),
    in_chans: int = 3,
) -> nn.Module:
    """Load the encoder of a file, a folder or a hub repository, whatever its network, as ``load_module`` does.

    Args:
        weights: ``hf-hub:ORG/NAME@REVISION``, or the path of a safetensors file or of a folder of ``zoo convert``.
        num_classes, features_only, out_indices, in_chans: as for ``load_module``.

    Raises:
        UserError: there are no such weights, or the options contradict each other.
    """
    _require_place(weights)
    if not is_hub_reference(weights) and not os.path.exists(weights):
        raise UserError(f"no weights at {weights}: give a file of `zoo-train export`, a folder or hf-hub:ORG/NAME")
    place = weights if is_hub_reference(weights) else Path(weights)
    return _adapted(lambda: locate(place), num_classes, features_only, out_indices, in_chans)


def _adapted(
    find: Callable[[], WeightFile], num_classes: int, features_only: bool, out_indices: Sequence[int], in_chans: int
) -> nn.Module:
    # Refuse arguments of other types, and those that contradict each other.
    _require_numbers(num_classes, out_indices, in_chans)
    if num_classes and features_only:
        raise UserError("num_classes and features_only contradict each other: a pyramid has no classifier")
    if num_classes < 0:
        raise UserError(f"num_classes is {num_classes}: 0 gives embeddings, above 0 a classifier")
    if not out_indices or not set(out_indices) <= set(range(5)) or len(set(out_indices)) < len(out_indices):
        raise UserError(f"out_indices is {list(out_indices)}: give some of 0, 1, 2, 3, 4, each once")
    if tuple(out_indices) != _ALL_MAPS and not features_only:
        raise UserError(f"out_indices {list(out_indices)} are of a pyramid: add features_only=True")
    if in_chans < 1:
        raise UserError(f"in_chans is {in_chans}: give a number above zero")
    # Load the encoder, then change its first layer and its top.
    file = find()
    if file.architecture.colours and (num_classes or features_only or in_chans != 3):
        raise UserError("the encoder is two networks, of RGB's lightness and colours: it gives embeddings of RGB only")
    module = load_encoder(file)
    if features_only:
        require_stages(module, "features_only")
    if in_chans != 3 and file.architecture.in_chans != 3:
        raise UserError(f"in_chans: {file.name} takes images of {file.architecture.in_chans} channels: leave it out")
    if in_chans != 3:
        _take_channels(module, in_chans)
    if features_only:
        from timm.models import FeatureListNet

        nested = file.architecture.timm_name.startswith("resnetv2")
        module = FeatureListNet(module, out_indices=tuple(sorted(out_indices)), flatten_sequential=nested).eval()
    elif num_classes:
        module.reset_classifier(num_classes)  # type: ignore[operator]
    module.preprocessing = file.preprocessing  # type: ignore[assignment]
    return module


def _require_numbers(num_classes: object, out_indices: object, in_chans: object) -> None:
    for name, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) > _MOST:
            raise UserError(f"{name} is {str(value)[:60]!r}: give a whole number up to {_MOST:,}")
    if not isinstance(out_indices, Sequence) or not all(isinstance(index, Integral) for index in out_indices):
        raise UserError(f"out_indices is {str(out_indices)[:60]!r}: give a list of some of 0, 1, 2, 3, 4")


def _require_place(weights: object) -> None:
    if not isinstance(weights, str | Path) or not str(weights):
        raise UserError(f"weights is {str(weights)[:60]!r}: give the path of a file or a folder, or hf-hub:ORG/NAME")


def _take_channels(module: nn.Module, in_chans: int) -> None:
    """Change the first convolution to another number of channels, with timm's rule for its weights."""
    import torch
    from timm.models import adapt_input_conv

    first = next(name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Conv2d))
    layer = module.get_submodule(first)
    assert isinstance(layer, torch.nn.Conv2d)
    layer.weight = torch.nn.Parameter(adapt_input_conv(in_chans, layer.weight.detach()))
    layer.in_channels = in_chans


def _locate(name: str, pretrained: bool, weights: str | Path | None, progress: bool) -> WeightFile:
    # Without a path or a tag, the registry decides.
    spec = registry.find(name)
    if weights is None:
        return _from_registry(name, pretrained, progress)
    if not pretrained:
        raise UserError(f"{name}: weights={str(weights)!r} and pretrained=False contradict each other")
    _require_place(weights)
    # A tag of the registry.
    if str(weights) in spec.weights:
        return _from_registry(f"{name}.{weights}", True, progress)
    # A path or a repository, which must exist.
    if not is_hub_reference(weights) and not os.path.exists(weights):
        tags = ", ".join(spec.weights) or "none"
        raise UserError(f"{name} has no weights {str(weights)!r}: give one of its tags ({tags}) or a path")
    # Its network must be the one that the entry point promises.
    file = locate(weights if is_hub_reference(weights) else Path(weights))
    from zoo.models.resnet import require_same_network

    require_same_network(file.architecture, registry.ARCHITECTURES[spec.architecture], str(weights), name)
    return file


def _from_registry(name: str, pretrained: bool, progress: bool) -> WeightFile:
    """Locate weights of the registry; ``locate`` would download official ones without showing the progress."""
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if pretrained and progress and tag is not None and tag in spec.weights and not spec.weights[tag].bundled:
        from zoo.hub.pretrained import fetch

        fetch(spec, tag, progress=_print_progress(name))
    return locate(name, pretrained=pretrained)


def _print_progress(name: str) -> Callable[[int, int | None], None]:
    """Print a line for every tenth; the package's progress bar needs rich, which torch.hub users may not have."""
    tenths = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal tenths
        if total and 10 * done // total > tenths:
            tenths = 10 * done // total
            print_line(f"{name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr, flush=True)

    return progress
