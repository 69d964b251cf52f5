"""BN on separate parts of a batch: gives MoCo on one device what BN per rank gives it on several.

As in the MoCo authors' CIFAR-10 demonstration (facebookresearch/moco, ``moco_cifar10_demo.ipynb``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError


def check_parts(rows: int, parts: int) -> None:
    """Raise UserError unless the ``rows`` images of a micro-batch make ``parts`` equal parts of 2 or more."""
    if rows % parts or rows // parts < 2:
        raise UserError(
            f"the {rows} images of a rank's micro-batch cannot be split into {parts} equal parts of 2 or more for BN: "
            "change objective.bn_parts, optim.batch_size or accumulate"
        )


def split_batch_norm(module: nn.Module, parts: int) -> None:
    """Make every BN inside ``module`` normalise ``parts`` parts separately; its state dict stays the same.

    Raises:
        UserError: a BN is fused with its activation, as in timm's wide networks.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SplitBatchNorm
            assert isinstance(child, SplitBatchNorm)
            child.parts = parts
        elif isinstance(child, nn.BatchNorm2d) and not isinstance(child, SplitBatchNorm):
            raise UserError("objective.bn_parts works only with r18, r50 and r200: set it to 1")


class SplitBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d converted by ``split_batch_norm``; image i belongs to part i modulo ``parts``."""

    parts: int

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], N a multiple of ``parts`` -> the same shape; in eval mode as BatchNorm2d."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        # Repeat the layer's state for each part.
        n, c, h, w = x.shape
        mean, variance = self.running_mean.repeat(self.parts), self.running_var.repeat(self.parts)
        weight, bias = self.weight.repeat(self.parts), self.bias.repeat(self.parts)
        joined = x.reshape(n // self.parts, self.parts * c, h, w)  # each part has channels of its own
        y = F.batch_norm(joined, mean, variance, weight, bias, True, self.momentum or 0.0, self.eps)
        # Average the running statistics over the parts.
        with torch.no_grad():
            self.running_mean.copy_(mean.view(self.parts, c).mean(0))
            self.running_var.copy_(variance.view(self.parts, c).mean(0))
        return y.reshape(n, c, h, w)
