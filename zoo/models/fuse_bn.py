"""Batch norm folded into the convolution before it, for inference: one pass over the activations less per layer."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

EXACT = 1e-5  # relative, max|difference| / max|reference|
_SIDE = 64  # of the image the pairs are found with


def folded(model: nn.Module) -> nn.Module | None:
    """A copy of an encoder in eval mode, on the CPU, whose batch norms are part of its convolutions.

    The pairs are found by running it: a batch norm whose input is the very tensor that a convolution gave. The
    result counts only if it gives the same features to ``EXACT``.

    Returns:
        None where it does not, or where there was nothing to fold.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    twin = copy.deepcopy(model).eval()
    names = {module: name for name, module in twin.named_modules()}
    image = torch.rand(2, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0)) * 4 - 2
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = model(image)
    pairs = _pairs(twin, image)
    if not pairs:
        return None
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        _replace(twin, names[norm], _rest_of(norm))
    twin = twin.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        difference = (twin(image) - expected).abs().max() / expected.abs().max()
    return twin if bool(difference <= EXACT) else None


def _pairs(model: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    import torch
    from torch import nn

    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept, so that no other one gets its id
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
            found.append((made[id(inputs[0])][0], module))

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(see) for layer in layers]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
    return found


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """What timm's ``BatchNormAct2d`` does besides normalising; nothing for a plain batch norm."""
    from torch import nn

    parts = [getattr(norm, part) for part in ("drop", "act") if isinstance(getattr(norm, part, None), nn.Module)]
    return nn.Sequential(*parts) if parts else nn.Identity()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
