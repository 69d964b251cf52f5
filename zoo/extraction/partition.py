"""Divide the shards of a plan among processes: this process makes all of them, or every n-th.

``--shard i/n`` says so on the command line (job arrays), torchrun in the environment. The shards are dealt out by
number alone and no process asks another: a partition can be made twice, late or on another machine, with the same
bytes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from zoo.errors import UserError
from zoo.inference.backend_choice import ON_CPU
from zoo.system.environment import whole_number
from zoo.system.hardware import gpu_in_sight


@dataclass(frozen=True)
class Partition:
    """The shards ``index``, ``index + of``, ``index + 2 of``, ... of a plan.

    Attributes:
        index: number of this process, from 0.
        of: number of processes.
        ranks: the processes are ranks of torchrun.
    """

    index: int = 0
    of: int = 1
    ranks: bool = False

    def __contains__(self, shard: int) -> bool:
        return shard % self.of == self.index

    def __str__(self) -> str:
        return self._name(self.index)

    def makers(self, shards: Iterable[int]) -> dict[str, int]:
        """Return how many of these shards each process makes, such as ``{"--shard 1/3": 4}``."""
        counts = Counter(shard % self.of for shard in shards)
        return {self._name(index): counts[index] for index in sorted(counts)}

    def _name(self, index: int) -> str:
        return f"rank {index} of {self.of}" if self.ranks else f"--shard {index}/{self.of}"


ALL_SHARDS = Partition()


def own_partition(text: str | None) -> Partition:
    """Return the partition of this process by ``--shard`` (``"i/n"``, i from 0) or torchrun's environment.

    Raises:
        UserError: the text is no partition, both are given, or torchrun's variables are no numbers of ranks.
    """
    # Without --shard, torchrun's environment decides.
    ranks = whole_number("WORLD_SIZE", 1, least=1)
    if text is None:
        if ranks == 1:
            return ALL_SHARDS
        if (rank := whole_number("RANK", None)) >= ranks:
            raise UserError(f"RANK={rank} with WORLD_SIZE={ranks}: ranks count from 0; torchrun sets both variables")
        return Partition(rank, ranks, ranks=True)
    if ranks > 1:
        raise UserError("torchrun divides the shards among its ranks: leave --shard away")
    # Parse I/N, which counts from 0.
    numbers = re.fullmatch(r"([0-9]{1,9})/([1-9][0-9]{0,8})", text)
    if numbers is None:
        raise UserError(f"--shard takes I/N, such as 0/8 to 7/8, not {text!r}")
    index, of = int(numbers[1]), int(numbers[2])
    if index >= of:
        raise UserError(f"--shard {text}: I counts from 0, so {of - 1}/{of} is the last")
    return Partition(index, of)


def own_device(device: str | None, *, backend: str, precision: str) -> str | None:
    """Return the GPU of torchrun's local rank if this run wants a GPU and there is one, else ``device`` unchanged.

    Raises:
        UserError: there are more ranks than GPUs on this machine.
    """
    # Only a rank that uses a GPU needs a card of its own.
    needs_cpu = backend in ON_CPU or precision == "int8"
    wants_gpu = device == "cuda" or (device is None and not needs_cpu and gpu_in_sight())
    if "LOCAL_RANK" not in os.environ or not wants_gpu:
        return device
    import torch

    # Give each rank of this machine its own card.
    local, gpus = whole_number("LOCAL_RANK", 0), torch.cuda.device_count()
    if gpus == 0:  # opening the model then refuses, or runs on the CPU
        return device
    if local >= gpus:
        ranks = os.environ.get("LOCAL_WORLD_SIZE", str(local + 1))
        raise UserError(f"{ranks} ranks and {gpus} GPU(s) on this machine: use torchrun --nproc-per-node {gpus}")
    return f"cuda:{local}"
