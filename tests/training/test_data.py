"""Batches: every step once, in an order of (seed, epoch) alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data import batches
from zoo.datasets import open_dataset


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("start", [0, 4, 7])
def test_every_step_comes_once_and_resuming_changes_none(labelled_folder: Path, workers: int, start: int) -> None:
    dataset = open_dataset(labelled_folder)
    whole = list(batches(dataset, batch_size=10, steps=range(12), seed=1))
    assert [b.step for b in whole] == list(range(12))
    per_epoch = len(dataset) // 10
    assert [b.epoch for b in whole] == [n // per_epoch for n in range(12)]
    rest = list(batches(dataset, batch_size=10, steps=range(start, 12), seed=1, workers=workers, ahead=2))
    assert [b.step for b in rest] == list(range(start, 12))
    for ours, theirs in zip(rest, whole[start:], strict=True):
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        assert all((a == b).all() for a, b in zip(ours.images, theirs.images, strict=True))
    first = np.concatenate([b.indices for b in whole[:per_epoch]])
    assert len(set(first.tolist())) == per_epoch * 10
