"""The feature map in front of an encoder's global pooling, beside its pooled features."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.errors import UserError


def last_map(encoder: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run an encoder of timm once: [N, 3, H, W] -> pooled features [N, D] and the map that they are pooled from.

    The encoder is called as usual, so that its forward hooks see the pooled features.

    Returns:
        Features [N, D] and map [N, D, h, w].

    Raises:
        UserError: it does not pool one map.
    """
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    pools = [module for module in encoder.modules() if isinstance(module, SelectAdaptivePool2d)]
    if len(pools) != 1:
        raise UserError("dense features need an encoder with one global pooling of a feature map, such as a ResNet")
    seen: list[Tensor] = []
    handle = pools[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        pooled: Tensor = encoder(images)
    finally:
        handle.remove()
    return pooled, seen[0]
