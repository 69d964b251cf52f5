"""BN over the batch of all ranks, or of groups of neighbouring ranks (SwAV), as the methods' papers use it.

GPUs use torch's and timm's SyncBatchNorm. Both refuse the CPU, so the CPU uses an all-reduce in plain torch. That is
slower but gives the same numbers in any precision, and makes two ranks testable without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.distributed.collectives import all_reduce_sum_, world_size
from zoo.errors import UserError


def group_ranks(images: int, rows: int, ranks: int) -> int:
    """Return the number of neighbouring ranks that share BN's statistics.

    Args:
        images: ``Recipe.bn_group_images``.
        rows: images of a rank's micro-batch.
        ranks: number of all ranks.

    Raises:
        UserError: the ranks cannot be grouped so that each group has ``images`` images.
    """
    if not images or rows * ranks <= images:
        return ranks
    if images % rows or ranks % (images // rows):
        raise UserError(
            f"bn_group_images={images} takes groups of {images / rows:g} of the {ranks} ranks with {rows} images each: "
            "change accumulate or the number of ranks, or set bn_group_images=0 for BN over all ranks"
        )
    return images // rows


def synchronise_batch_norm(module: nn.Module, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
    """Replace every BN inside ``module``; parameters, buffers and their names stay the same objects.

    ``group`` is this rank's (``collectives.neighbours``); ``None`` is all ranks.
    """
    # Choose the layer that works on this device.
    convert: Callable[[_BatchNorm], nn.Module]
    if device.type == "cuda":
        convert = partial(convert_sync_batchnorm, process_group=group)
    else:
        convert = partial(AllReduceBatchNorm, group=group)
    # Replace the BN layers and descend into all other modules.
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            module.add_module(name, convert(child))
        else:
            synchronise_batch_norm(child, device, group)


class AllReduceBatchNorm(_BatchNorm):
    """``bn`` (of every kind, also timm's with an activation) with the statistics of the rows of ``group``'s ranks.

    Every rank must have the same number of rows. Gradients are those of the sum of all ranks' losses, as in torch's
    SyncBatchNorm; DDP then averages them.
    """

    def __init__(self, bn: _BatchNorm, group: dist.ProcessGroup | None = None) -> None:
        super().__init__(bn.num_features, bn.eps, bn.momentum, bn.affine, bn.track_running_stats)
        self.group = group
        self._parameters, self._buffers, self.training = bn._parameters, bn._buffers, bn.training
        self.activation = nn.Sequential(bn.drop, bn.act) if isinstance(bn, BatchNormAct2d) else nn.Identity()

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept every number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> the same shape."""
        result: Tensor = self.activation(self._normalise(x) if self.training else super().forward(x))
        return result

    def _normalise(self, x: Tensor) -> Tensor:
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        # Compute the statistics in float32, over the images of all ranks.
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        ranks = world_size() if self.group is None else self.group.size()
        count = x.numel() // x.shape[1] * ranks
        mean = _SumOverRanks.apply(wide.sum(dims), self.group) / count
        centred = wide - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().sum(dims), self.group) / count
        self._update_running_stats(mean.detach(), variance.detach() * (count / (count - 1)))
        # Apply the shared statistics to this rank's images.
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        result: Tensor = y.to(x.dtype)
        return result

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class _SumOverRanks(torch.autograd.Function):
    group: dist.ProcessGroup | None

    @staticmethod
    def forward(ctx: _SumOverRanks, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return all_reduce_sum_(x.clone(), group)

    @staticmethod
    def backward(ctx: _SumOverRanks, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_reduce_sum_(gradients[0].clone(), ctx.group), None


class PreservedRunningStats:
    """A context that restores the running statistics of all BN in ``modules`` when it ends; can be entered repeatedly.

    For the backward pass of a network with checkpointed activations: recomputing them updates every BN a second time.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._buffers = [b for m in modules if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]

    def __enter__(self) -> None:
        self._before = [b.clone() for b in self._buffers]

    def __exit__(self, *_: object) -> None:
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
