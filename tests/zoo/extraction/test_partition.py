"""Which shards a process makes, as the command line and torchrun's environment say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import UserError
from zoo.extraction import partition
from zoo.extraction.partition import ALL_SHARDS, Partition, own_device, own_partition


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@given(st.integers(1, 50), st.integers(0, 200))
def test_every_shard_is_in_one_partition(of: int, shards: int) -> None:
    partitions = [own_partition(f"{index}/{of}") for index in range(of)]
    for shard in range(shards):
        assert sum(shard in each for each in partitions) == 1
    sizes = [sum(shard in each for shard in range(shards)) for each in partitions]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "text", ["x/y", "", "1", "/", "1/", "/3", "-1/3", "0/0", "1/3/5", "0 /3", "1.0/3", "0x1/3", "٠/٣"]
)
def test_what_is_no_partition_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^--shard takes I/N[^\n]*$"):
        own_partition(text)


def test_partitions_count_from_zero() -> None:
    with pytest.raises(UserError, match=r"--shard 3/3: I counts from 0, so 2/3 is the last"):
        own_partition("3/3")


def test_torchrun_divides_the_shards_among_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_partition(None) == ALL_SHARDS
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert own_partition(None) == Partition(2, 4, ranks=True)
    assert own_partition(None).makers([0, 1, 4]) == {"rank 0 of 4": 2, "rank 1 of 4": 1}
    with pytest.raises(UserError, match="leave --shard away"):
        own_partition("0/2")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert own_partition("1/2") == Partition(1, 2)
    assert own_partition(None) == ALL_SHARDS


def test_a_rank_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(asked: str | None, backend: str = "auto", precision: str = "fp32") -> str | None:
        return own_device(asked, backend=backend, precision=precision)

    monkeypatch.setattr(partition, "gpu_in_sight", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device(None) is None, "no rank"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device(None) == device("cuda") == device("cuda", "onnx") == "cuda:1"
    assert device("cpu") == "cpu"
    assert device("cuda:0") == "cuda:0"
    assert device(None, "onnx") is None
    assert device(None, precision="int8") is None
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="--nproc-per-node 2"):
        device(None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device(None) is None
