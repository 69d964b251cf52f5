"""The process group of a run and its collectives; on a single process these do nothing.

``torchrun --nproc-per-node 8 -m training run ...`` starts the ranks, with gloo on the CPU and NCCL on GPUs. Every rank
trains on its part of each batch; only rank 0 writes files. With ``--max-restarts``, torchrun restarts a group that lost
a rank, and the run resumes from the last checkpoint.

Why neither FSDP nor ZeRO (computed, not measured): BYOL with r200x2 has 270 M trained parameters with its heads. Online
and target network, gradients, momentum and DDP's buckets in float32 take 5 x 4 x 270 M = 5.4 GB on every GPU, and
sharding could save no more than that. Activations need far more: in bf16 the two views of an image keep 490 MiB, or
169 MiB with ``checkpoint_activations`` (``benchmarks/activation_memory.py``). A batch of 4096 therefore needs 32 GPUs
of 80 GB (128 images each, 61 GiB), or with checkpointing 16 of them (42 GiB) or 8 GPUs of 141 GB (84 GiB).
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
from torch.autograd.function import FunctionCtx
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from zoo.errors import UserError, reason_of
from zoo.system.environment import seconds, whole_number

_TIMEOUT = "ZOO_TRAIN_TIMEOUT"  # seconds that a rank waits for the others; must be longer than rank 0's monitors
_DEFAULT_TIMEOUT = 1800.0
_LOST_RANK_WORDS = ("connection", "timed out", "timeout", "gloo", "nccl", "socket", "peer")


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the process group that torchrun's environment describes; without torchrun, stay a single process.

    Yields:
        The device of this rank; ``cuda`` becomes the GPU with its local rank.

    Raises:
        UserError: there are too few GPUs; or, during the run, another rank died or did not answer for
            ZOO_TRAIN_TIMEOUT seconds (default 1800).
    """
    # Leave a single process without a group.
    if whole_number("WORLD_SIZE", 1, least=1) == 1:
        yield device
        return
    # Join the group that torchrun has announced.
    device = _local_device(device)
    timeout = seconds(_TIMEOUT, _DEFAULT_TIMEOUT)
    try:
        _initialise("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo", timedelta(seconds=timeout))
        yield device
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError, gloo raises plain ones
        # Turn a lost rank into advice, and pass on every other error.
        if not any(sign in str(error).lower() for sign in _LOST_RANK_WORDS):
            raise
        reason = reason_of(error)
        raise UserError(
            f"another rank died, or did not answer for {timeout:g} s ({reason}): see its own error message, "
            "then run the same command with --resume to continue from the last checkpoint"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _initialise(backend: str, timeout: timedelta) -> None:
    """Join the process group; after a restart on one node, with new keys in torchrun's store.

    torchrun (2.14) keeps one store for all restarts. With the same keys, a restarted rank can read the address of a
    dead process and then fails or hangs (``Gloo connectFullMesh failed``). Several nodes count restarts separately, so
    they cannot agree on keys: there, give torchrun ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``.
    """
    store, rank, ranks = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(ranks):
        store = PrefixStore(f"restart {_restarts()}", store)
    dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=ranks)


def restarted() -> bool:
    """Return True if torchrun restarted this group after a failure (``--max-restarts``)."""
    return _restarts() > 0


def _restarts() -> int:
    return whole_number("TORCHELASTIC_RESTART_COUNT", 0)


def distributed_data_parallel(method: nn.Module, device: torch.device) -> Callable[..., dict[str, Tensor]]:
    """Wrap ``method`` in DDP, which averages gradients over the ranks; a single process gets ``method`` itself.

    ``find_unused_parameters`` stops DDP from regrouping its buckets after the first step. Otherwise a resumed run would
    sum in another order and, with three ranks or more, differ in the last bit. Buffers are not exchanged: synchronised
    BN has equal ones on all ranks, and where BN is per rank (MoCo), rank 0's are saved.
    """
    if world_size() == 1:
        return method
    known = signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    options: dict[str, Any] = {buffers: False, "find_unused_parameters": True}
    return DistributedDataParallel(method, device_ids=[device] if device.type == "cuda" else None, **options)


def any_rank(flag: bool) -> bool:
    """Return True on all ranks if ``flag`` is set on one of them."""
    return bool(all_reduce_sum_(torch.tensor([int(flag)])).item()) if world_size() > 1 else flag


def ranks_differ(value: int) -> bool:
    """Return True on all ranks if they do not all have the same value."""
    return len(set(gather(torch.tensor([value])).tolist())) > 1


def barrier() -> None:
    """Wait for all ranks."""
    all_reduce_sum_(torch.zeros(1))


def _local_device(device: str) -> str:
    if device == "cpu":
        return device
    local, count = whole_number("LOCAL_RANK", 0), torch.cuda.device_count()
    if device != "cuda":
        raise UserError(f"with torchrun every rank uses the GPU of its local rank: give --device cuda, not {device}")
    if local >= count:
        raise UserError(f"local rank {local} has no GPU, there are {count}: give --nproc-per-node {max(count, 1)}")
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """[N, ...] with equal N on all ranks -> [ranks * N, ...] in the order of the ranks; without a gradient."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def gather_with_gradient(x: Tensor) -> Tensor:
    """``gather`` with a gradient: each rank's rows receive the sum of the gradients of all ranks' losses.

    If each loss is the mean over a rank's rows and DDP averages the gradients, the result is the gradient of the mean
    over all rows.
    """
    gathered: Tensor = x if world_size() == 1 else _Gather.apply(x)
    return gathered


def all_reduce_sum_(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Replace ``x`` by its sum over the ranks of ``group``, or over all, and return it."""
    if world_size() > 1:
        dist.all_reduce(x, group=group)
    return x


def neighbours(size: int) -> dist.ProcessGroup | None:
    """Return the group of ``size`` neighbouring ranks to which this rank belongs; ``None`` if that is all of them.

    A collective call. ``size`` divides the number of ranks.
    """
    # Use the default group when it has the right size.
    if size == world_size():
        return None
    own: dist.ProcessGroup | None = None
    # Make the groups in the same order on every rank.
    for start in range(0, world_size(), size):
        ranks = list(range(start, start + size))
        group = dist.new_group(ranks)  # every rank must make every group
        if rank() in ranks and isinstance(group, dist.ProcessGroup):
            own = group
    return own


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return gather(x)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        gradient = all_reduce_sum_(gradients[0].contiguous())
        return gradient.chunk(world_size())[rank()]
