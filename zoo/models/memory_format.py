"""The order of memory in which a network trains fast, and right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

# oneDNN's backward pass of a strided 1x1 convolution in channels_last writes behind its buffer if the convolution has
# fewer input channels than a vector register has float32 numbers: 8 with AVX2, 16 with AVX-512. The process crashes, or
# the gradient is wrong (github.com/uxlfoundation/oneDNN, issue 6035).
_LEAST_CHANNELS = 16


def training_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Return ``torch.channels_last``, or on a CPU ``torch.contiguous_format`` for the networks that need it.

    torch's group norm on a CPU takes 20 times as long in channels_last, and a whole step of BYOL without BN 3 times;
    with a single group it does not. oneDNN has a fault in strided 1x1 convolutions with few channels.
    """
    import torch
    from torch import nn

    def needs_contiguous(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Conv2d):
            is_strided_1x1 = layer.kernel_size == (1, 1) and layer.stride != (1, 1)
            return is_strided_1x1 and layer.in_channels // layer.groups < _LEAST_CHANNELS
        return isinstance(layer, nn.GroupNorm) and layer.num_groups > 1

    if device.type == "cpu" and any(needs_contiguous(layer) for layer in network.modules()):
        return torch.contiguous_format
    return torch.channels_last
