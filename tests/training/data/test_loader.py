"""Batches: every step once, in an order of (seed, epoch) alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.loader import batches
from zoo.datasets.dataset import decoded_once
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("start", [0, 4, 7])
def test_every_step_comes_once_and_resuming_changes_none(labelled_folder: Path, workers: int, start: int) -> None:
    dataset = open_dataset(labelled_folder)
    whole = list(batches(dataset, batch_size=10, steps=range(12), seed=1))
    assert [b.step for b in whole] == list(range(12))
    per_epoch = len(dataset) // 10
    assert [b.epochs.tolist() for b in whole] == [[n // per_epoch] * 10 for n in range(12)]
    rest = list(batches(dataset, batch_size=10, steps=range(start, 12), seed=1, workers=workers, ahead=2))
    assert [b.step for b in rest] == list(range(start, 12))
    for ours, theirs in zip(rest, whole[start:], strict=True):
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        assert torch.equal(ours.images.pixels, theirs.images.pixels)
    first = np.concatenate([b.indices for b in whole[:per_epoch]])
    assert len(set(first.tolist())) == per_epoch * 10


def spoilt(folder: Path, tmp_path: Path, count: int) -> Path:
    """A copy of the folder with ``count`` images cut off."""
    copy = tmp_path / "spoilt"
    shutil.copytree(folder, copy)
    for path in sorted(copy.rglob("*.jpg"))[:count]:
        path.write_bytes(path.read_bytes()[:300])
    return copy


@pytest.mark.parametrize(("workers", "ranks"), [(1, 1), (3, 2)])
def test_an_unreadable_image_is_replaced_by_the_same_one_always(
    labelled_folder: Path, tmp_path: Path, workers: int, ranks: int
) -> None:
    """Whatever the workers and ranks, resumed or not; the batch keeps its size and each bad file is said once."""
    dataset = open_dataset(spoilt(labelled_folder, tmp_path, 2))
    reference = list(batches(dataset, batch_size=8, steps=range(12), seed=1, workers=2))
    said = [name for b in reference for name in b.unreadable]
    assert sorted(said) == sorted(dataset.row_name(row) for row in (0, 1))
    replaced = [(int(i), int(r)) for b in reference for i, r in zip(b.indices, b.rows, strict=True) if i != r]
    assert {index for index, _ in replaced} == {0, 1}
    assert len({row for _, row in replaced}) > 2  # another one in each epoch
    assert dataset.labels is not None
    for batch in reference:
        assert len(batch.images) == 8
        assert batch.labels is not None
        np.testing.assert_array_equal(batch.labels, dataset.labels[batch.rows])
    for rank in range(ranks):
        options = {"batch_size": 8, "seed": 1, "workers": workers, "rank": rank, "ranks": ranks}
        part = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
        for ours, theirs in zip(batches(dataset, steps=range(5, 12), **options), reference[5:], strict=True):  # type: ignore[arg-type]
            np.testing.assert_array_equal(ours.rows, theirs.part(part).rows)
            assert torch.equal(ours.images.pixels, theirs.part(part).images.pixels)


def test_too_many_unreadable_images_stop_the_run(labelled_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(spoilt(labelled_folder, tmp_path, 4))
    with pytest.raises(UserError, match=r"4 of 46 images cannot be read, .*\.jpg \(truncated"):
        list(batches(dataset, batch_size=8, steps=range(12), seed=1))


@pytest.mark.parametrize(
    ("error", "message"), [(MemoryError(), "out of memory"), (OSError(5, "Input/output error"), "worker failed")]
)
def test_a_worker_that_dies_stops_the_run_and_hangs_nothing(
    labelled_folder: Path, error: Exception, message: str
) -> None:
    dataset = open_dataset(labelled_folder)
    calls = iter(range(1000))

    def read(index: int) -> bytes:
        if next(calls) > 20:
            raise error
        return original(index)

    original = dataset._read
    with pytest.raises(UserError, match=message):
        list(batches(replace(dataset, _read=read), batch_size=8, steps=range(12), seed=1))


def test_decoded_once_the_batches_are_the_same(labelled_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(spoilt(labelled_folder, tmp_path, 1))
    for ours, theirs in zip(
        *(batches(d, batch_size=8, steps=range(6), seed=1) for d in (dataset, decoded_once(dataset))), strict=True
    ):
        assert torch.equal(ours.images.pixels, theirs.images.pixels)
        assert ours.unreadable == theirs.unreadable
