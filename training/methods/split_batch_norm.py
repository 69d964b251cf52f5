"""BN per part of a batch, for MoCo on one device: what BN per rank is on several.

As in the MoCo authors' CIFAR-10 demonstration (facebookresearch/moco, ``moco_cifar10_demo.ipynb``).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError


def split(module: nn.Module, parts: int) -> None:
    """Gives every BN inside ``module`` ``parts`` parts; parameters, buffers and their names stay.

    Raises:
        UserError: BN that is fused with its activation, as timm's wide networks have it.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SplitBatchNorm
            cast(SplitBatchNorm, child).parts = parts
        elif isinstance(child, nn.BatchNorm2d) and not isinstance(child, SplitBatchNorm):
            raise UserError("objective.bn_parts works with r18, r50 and r200 alone")


class SplitBatchNorm(nn.BatchNorm2d):
    """Made by ``split`` from a BatchNorm2d: image i belongs to part i modulo ``parts``."""

    parts: int

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], N a multiple of ``parts`` -> the same; in eval mode as BatchNorm2d."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        n, c, h, w = x.shape
        mean, variance = self.running_mean.repeat(self.parts), self.running_var.repeat(self.parts)
        weight, bias = self.weight.repeat(self.parts), self.bias.repeat(self.parts)
        joined = x.reshape(n // self.parts, self.parts * c, h, w)  # a channel of each part by itself
        y = F.batch_norm(joined, mean, variance, weight, bias, True, self.momentum or 0.0, self.eps)
        with torch.no_grad():
            self.running_mean.copy_(mean.view(self.parts, c).mean(0))
            self.running_var.copy_(variance.view(self.parts, c).mean(0))
        return y.reshape(n, c, h, w)
