"""An encoder as stem and four stages, for networks that need feature maps; dilation and batch statistics of them.

Works from timm's ``feature_info``, so for every ResNet of the registry, wide ones and TF padding included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from zoo.errors import UserError

_BatchNorm = nn.modules.batchnorm._BatchNorm  # timm's BatchNormAct2d is one too


def stages(encoder: nn.Module) -> tuple[nn.Sequential, list[nn.Module]]:
    """The parts of a timm ResNet: the stem (with its max-pool) and the four stages, sharing the encoder's parameters.

    ``stage4(...stage1(stem(x)))`` is the encoder's map before pooling, [N, D, H / 32, W / 32].

    Raises:
        UserError: another kind of network.
    """
    info = getattr(encoder, "feature_info", None)
    if info is None or len(info) != 5 or not isinstance(getattr(encoder, "norm", nn.Identity()), nn.Identity):
        raise UserError("detection, segmentation and depth need a ResNet with a stem and four stages")
    names = [entry["module"] for entry in info][1:]
    first = names[0].partition(".")[0]
    children = dict(encoder.named_children())
    stem = nn.Sequential(*list(children.values())[: list(children).index(first)])
    return stem, [encoder.get_submodule(name) for name in names]


def strides(stem: nn.Module, layers: Iterable[nn.Module]) -> list[int]:
    """Pixels of the input per cell of each stage's map: 4, 8, 16, 32 for an ImageNet stem. Measured, not assumed."""
    with torch.no_grad():
        training = [m for m in (stem, *layers) if m.training]
        x = torch.zeros(1, 3, 64, 64, device=next(stem.parameters()).device)
        side, found = x.shape[-1], []
        for n, module in enumerate((stem, *layers)):
            x = module.eval()(x)
            if n:
                found.append(side // x.shape[-1])
        for module in training:
            module.train()
    return found


def channels(layer: nn.Module) -> int:
    """Channels of a stage's map."""
    *_, last = (m for m in layer.modules() if isinstance(m, nn.Conv2d))
    return last.out_channels


def dilate(layer: nn.Module, rate: int = 2) -> None:
    """Stride 1 everywhere in a stage, its 3x3 convolutions dilated by ``rate``: the weights see the same neighbours.

    MoCo's FCN and [B] D.4: "the 3x3 convolutions in conv5 have dilation 2 and stride 1", the first one too.
    """
    for module in layer.modules():
        if isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            raise UserError("this network pools inside its last stage: dilation is not defined for it")
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = (rate, rate)
                if module.padding != (0, 0):  # timm's TF padding pads in its forward, by stride and dilation
                    module.padding = (rate, rate)


def freeze_statistics(module: nn.Module) -> None:
    """Batch norms of ``module`` use their stored statistics; call it again after every ``train()``."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


@torch.no_grad()
def precise_statistics(model: nn.Module, run: Callable[[int], Tensor | object], batches: int) -> None:
    """Running statistics of all batch norms in train mode, averaged over ``batches`` batches with the final weights.

    What Detectron2 calls PreciseBN. ``run(n)`` puts batch n through ``model``; its result is not used.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    if not norms or batches < 1:
        return
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    for n in range(batches):
        run(n)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
