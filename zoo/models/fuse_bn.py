"""Fold batch norms into the convolutions before them, for inference: each saves one pass over the activations."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_ERROR = 1e-5  # allowed max|difference| / max|reference| of the folded network's features
_SIDE = 64  # pixels of the image that the network is traced with


def fold_batch_norms(model: nn.Module, channels: int = 3, input_size: int = _SIDE) -> nn.Module | None:
    """Return a copy of an encoder, in eval mode on the CPU, with its batch norms folded into its convolutions.

    Running the network finds the pairs: a batch norm belongs to the convolution whose output tensor is its input.

    Args:
        channels: of the images.
        input_size: side of the images in pixels, for a network that takes no others.

    Returns:
        ``None`` where there is nothing to fold, or where the folded copy's features differ by more than ``MAX_ERROR``.
    """
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    # A transformer has none.
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
        return None
    # Work on a copy, and keep the model's output on an image as the reference.
    twin = copy.deepcopy(model).eval()
    names = {module: name for name, module in twin.named_modules()}
    side = input_size if getattr(model, "pretrained_cfg", {}).get("fixed_input_size") else _SIDE
    image = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0)) * 4 - 2
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = model(image)
    # Find each norm that follows a convolution directly.
    pairs = _pairs(twin, image)
    if not pairs:
        return None
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        _replace(twin, names[norm], _without_norm(norm))
    # Keep the folded network only if it gives the same features.
    twin = twin.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        difference = (twin(image) - expected).abs().max() / expected.abs().max()
    return twin if bool(difference <= MAX_ERROR) else None


def _pairs(model: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    import torch
    from torch import nn

    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the tensors: a freed one's id could be used again
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = (module, output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))

    # Run the model once and record which output enters which norm.
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
    return pairs


def _without_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """Return the dropout and activation of timm's ``BatchNormAct2d``; the identity for a plain batch norm."""
    from torch import nn

    parts = [getattr(norm, part) for part in ("drop", "act") if isinstance(getattr(norm, part, None), nn.Module)]
    return nn.Sequential(*parts) if parts else nn.Identity()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
