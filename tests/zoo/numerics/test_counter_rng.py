"""Draws are a pure function of their coordinates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zoo.numerics.counter_rng import permutation, uniforms


@given(
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 10_000),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
    data=st.data(),
)
def test_a_row_depends_on_its_index_alone(seed: int, epoch: int, indices: list[int], data: st.DataObject) -> None:
    rows = np.array(indices, np.int64)
    together = uniforms(seed, 1, epoch, rows, 7)
    place = data.draw(st.integers(0, len(indices) - 1))
    np.testing.assert_array_equal(uniforms(seed, 1, epoch, rows[[place]], 7)[0], together[place])
    assert ((together >= 0) & (together < 1)).all()


def test_every_coordinate_changes_the_draws() -> None:
    index = np.arange(5)
    base = uniforms(0, 1, 0, index, 8)
    for other in (uniforms(1, 1, 0, index, 8), uniforms(0, 2, 0, index, 8), uniforms(0, 1, 1, index, 8)):
        assert not np.isin(other, base).any()


def test_rows_of_several_epochs_are_those_of_each() -> None:
    index, epochs = np.arange(6), np.array([3, 3, 3, 3, 4, 4])
    together = uniforms(7, 1, epochs, index, 5)
    np.testing.assert_array_equal(together[:4], uniforms(7, 1, 3, index[:4], 5))
    np.testing.assert_array_equal(together[4:], uniforms(7, 1, 4, index[4:], 5))


def test_draws_are_uniform_and_uncorrelated() -> None:
    u = uniforms(3, 1, 2, np.arange(20_000), 4)
    histogram = np.histogram(u, bins=50, range=(0, 1))[0]
    chi2 = ((histogram - u.size / 50) ** 2 / (u.size / 50)).sum()
    assert chi2 < 100  # 49 degrees of freedom: p of about 2e-5
    correlation = np.corrcoef(np.concatenate([u[:-1], u[1:]], 1).T)
    assert np.abs(correlation - np.eye(8)).max() < 0.03


def test_permutations_differ_by_epoch_and_hold_every_index() -> None:
    first, second = permutation(0, 0, 1000), permutation(0, 1, 1000)
    assert sorted(first) == list(range(1000))
    assert (first != second).any()
    np.testing.assert_array_equal(first, permutation(0, 0, 1000))
