"""The ranks of a run: how they join, and collectives over them, each the identity on one process.

``torchrun --nproc-per-node 8 -m training run ...`` starts them: gloo on the CPU, NCCL on GPUs. Every rank takes its
share of each batch; rank 0 alone writes. With ``--max-restarts`` a group that lost a rank is started again and goes
on from the last checkpoint.

Why neither FSDP nor ZeRO, on paper: BYOL with r200x2 has 270 M trained parameters, heads included. Online and target
network, gradients, momentum and DDP's buckets in float32 are 5 x 4 x 270 M = 5.4 GB on every GPU. Activations decide:
in bf16 the two views of an image keep 490 MiB, 169 MiB with ``checkpoint_activations``
(``benchmarks/activation_memory.py``), so a batch of 4096 needs 32 GPUs of 80 GB as it is (128 images each, 61 GiB),
or with checkpointing 16 of them (42 GiB) or 8 of 141 GB (84 GiB). Sharding could save no more than those 5.4 GB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zoo.errors import UserError, reason_of

_TIMEOUT = "ZOO_TRAIN_TIMEOUT"  # seconds that a rank waits for the others; rank 0's monitors must fit in
_DEFAULT_TIMEOUT = 1800.0
_SIGNS_OF_A_LOST_RANK = ("connection", "timed out", "timeout", "gloo", "nccl", "socket", "peer")


@contextmanager
def ranks(device: str) -> Iterator[str]:
    """Joins the ranks that torchrun's environment names, for the time of the context; none there: one process.

    Yields:
        The device of this rank: of ``cuda``, the GPU of its number on the node.

    Raises:
        UserError: a GPU too few; or, while they train, another rank that died or kept silent for ZOO_TRAIN_TIMEOUT
            seconds (1800 if not set).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    device = _own_device(device)
    seconds = _timeout()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo", timeout=timedelta(seconds=seconds))
        yield device
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError, gloo raises plain ones
        if not any(sign in str(error).lower() for sign in _SIGNS_OF_A_LOST_RANK):
            raise
        reason = reason_of(error)
        raise UserError(
            f"another rank died, or was silent for {seconds:g} s ({reason}): see its own error; "
            "the same command with --resume goes on from the last checkpoint"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def restarted() -> bool:
    """Whether torchrun has started this group again after a failure (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def wrap(method: nn.Module, device: torch.device) -> Callable[..., dict[str, Tensor]]:
    """``method`` with DDP around it, which averages the gradients over the ranks; itself on one process.

    ``find_unused_parameters`` keeps DDP from regrouping its buckets after the first step: a resumed run would else
    sum in another order, and with three ranks or more differ in the last bit. Buffers stay as each rank has them:
    synchronised BN has the same on all ranks, and where BN is per rank (MoCo) rank 0's are the ones that are kept.
    """
    if world_size() == 1:
        return method
    known = signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    options: dict[str, Any] = {buffers: False, "find_unused_parameters": True}
    return DistributedDataParallel(method, device_ids=[device] if device.type == "cuda" else None, **options)


def on_any_rank(flag: bool) -> bool:
    """Whether ``flag`` is set on some rank."""
    return bool(all_reduce_sum_(torch.tensor([int(flag)])).item()) if world_size() > 1 else flag


def differs(value: int) -> bool:
    """Whether the ranks have different values."""
    return len(set(gather(torch.tensor([value])).tolist())) > 1


def barrier() -> None:
    """Waits for all ranks."""
    all_reduce_sum_(torch.zeros(1))


def _own_device(device: str) -> str:
    if device == "cpu":
        return device
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device != "cuda":
        raise UserError(f"with torchrun every rank takes the GPU of its number: --device cuda, not {device}")
    if local >= count:
        raise UserError(f"rank {local} of this node has no GPU, there are {count}: --nproc-per-node {max(count, 1)}")
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _timeout() -> float:
    text = os.environ.get(_TIMEOUT, str(_DEFAULT_TIMEOUT))
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{_TIMEOUT} is {text!r}: give seconds") from None


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """[N, ...], the same N on all ranks -> [ranks * N, ...] in the order of the ranks; without a gradient."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def gather_with_gradient(x: Tensor) -> Tensor:
    """``gather`` through which gradients flow: each rank gets the sum of what all ranks' losses say of its rows.

    With losses that are means over a rank's rows and gradients averaged over ranks (DDP), that is the gradient of
    the mean over all rows.
    """
    gathered: Tensor = x if world_size() == 1 else _Gather.apply(x)
    return gathered


def all_reduce_sum_(x: Tensor) -> Tensor:
    """Sum over the ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        return gather(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = all_reduce_sum_(gradients[0].contiguous())
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows]
