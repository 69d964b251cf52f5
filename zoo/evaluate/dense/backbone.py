"""A ResNet as stem and four stages, for networks that need feature maps; its dilation and its batch norms.

It reads timm's ``feature_info``, so it works for every ResNet of the registry, wide ones and TF padding included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from zoo.errors import UserError
from zoo.models.backbones import has_stages

_BatchNorm = nn.modules.batchnorm._BatchNorm  # timm's BatchNormAct2d is one too


def split_stages(encoder: nn.Module) -> tuple[nn.Sequential, list[nn.Module]]:
    """Return the stem of a timm ResNet (with its max-pool) and the four stages, sharing the encoder's parameters.

    ``stage4(...stage1(stem(x)))`` is the encoder's map before pooling, [N, D, H / 32, W / 32].

    Raises:
        UserError: another kind of network.
    """
    info = getattr(encoder, "feature_info", None)
    is_plain = isinstance(getattr(encoder, "norm", nn.Identity()), nn.Identity)
    if info is None or len(info) != 5 or not has_stages(encoder) or not is_plain:
        raise UserError("detection, segmentation and depth need a ResNet with a stem and four stages")
    names = [entry["module"] for entry in info][1:]
    first = names[0].partition(".")[0]
    children = dict(encoder.named_children())
    stem = nn.Sequential(*list(children.values())[: list(children).index(first)])
    return stem, [encoder.get_submodule(name) for name in names]


def stage_strides(stem: nn.Module, stages: Iterable[nn.Module]) -> list[int]:
    """Measure the stride of each stage's map in pixels of the input: 4, 8, 16, 32 for an ImageNet stem."""
    with torch.no_grad():
        training = [m for m in (stem, *stages) if m.training]
        x = torch.zeros(1, 3, 64, 64, device=next(stem.parameters()).device)
        side, strides = x.shape[-1], []
        for n, module in enumerate((stem, *stages)):
            x = module.eval()(x)
            if n:
                strides.append(side // x.shape[-1])
        for module in training:
            module.train()
    return strides


def out_channels(stage: nn.Module) -> int:
    """Return the number of channels of a stage's map."""
    *_, last = (m for m in stage.modules() if isinstance(m, nn.Conv2d))
    return last.out_channels


def dilate(stage: nn.Module, rate: int = 2) -> None:
    """Set stride 1 in a stage, and dilate its 3x3 convolutions by ``rate`` so that the weights see the same neighbours.

    The appendix of MoCo (FCN) and [B] app. D.4: "the 3x3 convolutions in conv5 have dilation 2 and stride 1", the first
    one too.

    Raises:
        UserError: the stage pools.
    """
    for module in stage.modules():
        if isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            raise UserError("this network pools inside its last stage: dilation is not defined for it")
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = (rate, rate)
                if module.padding != (0, 0):  # timm's TF padding pads in its forward, by stride and dilation
                    module.padding = (rate, rate)


def freeze_bn_stats(module: nn.Module) -> None:
    """Make batch norms use their stored statistics; call it again after every ``train()``."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


@torch.no_grad()
def update_bn_stats(model: nn.Module, forward: Callable[[int], object], batches: int) -> None:
    """Recompute the running statistics of all batch norms in train mode as averages over batches (PreciseBN).

    Args:
        forward: puts batch n through ``model``; its result is ignored.
        batches: number of batches.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    if not norms or batches < 1:
        return
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    for n in range(batches):
        forward(n)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
