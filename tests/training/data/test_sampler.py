from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.sampler import EpochSampler
from training.recipes.table import find

IMAGENET = 1_281_167


@given(images=st.integers(1, 200), batch_size=st.integers(1, 50), count=st.integers(1, 5), drop_last=st.booleans())
def test_every_image_has_its_turn_once_an_epoch(images: int, batch_size: int, count: int, drop_last: bool) -> None:
    batch_size = min(batch_size, images)
    sampler = EpochSampler(images, batch_size, drop_last)
    drawn = [sampler.batch(step, seed=3) for step in range(sampler.steps(count))]
    rows, of = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    assert (np.diff(of) >= 0).all()
    counts = np.bincount(of, minlength=count)
    for epoch in range(count):
        assert len(set(rows[of == epoch].tolist())) == counts[epoch]  # none twice
    if drop_last:
        assert (counts == images // batch_size * batch_size).all()
    else:
        assert (counts[:-1] == images).all()
        assert images * count - batch_size < counts.sum() <= images * count
    assert [sampler.epoch_at(step) for step in range(len(drawn))] == [of[0] for _, of in drawn]
    length = images // batch_size * batch_size if drop_last else images
    before = [int((of[: step * batch_size] == of[step * batch_size]).sum()) for step in range(len(drawn))]
    assert [sampler.fraction_at(step) for step in range(len(drawn))] == pytest.approx([n / length for n in before])


def test_steps_are_those_of_the_official_code() -> None:
    """byol.py: ``num_epochs * images // batch_size``, in all and in the warm-up; PyTorch's: epochs of whole batches."""
    for name, total, warmup in (
        ("byol_r50_in1k_40ep", 12511, 3127),
        ("byol_r50_in1k_300ep", 93835, 3127),
        ("byol_r50_in1k_1000ep", 312784, 3127),
        ("byol_r50_in1k_1000ep_b512", 2502279, 25022),
        ("simclr_r50_in1k_1000ep", 312784, 3127),
        ("swav_r50_in1k_800ep", 800 * 312, 3120),
        ("simsiam_r50_in1k_100ep", 100 * 2502, 0),
        ("mocov2_r50_in1k_200ep", 200 * 5004, 0),
    ):
        optim = find(name).optim
        sampler = EpochSampler(IMAGENET, optim.batch_size, optim.drop_last)
        assert (sampler.steps(optim.epochs), sampler.steps(optim.warmup_epochs)) == (total, warmup), name


@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_has_its_own_order(drop_last: bool) -> None:
    sampler = EpochSampler(64, 16, drop_last)
    first, second = (np.concatenate([sampler.batch(s, seed=0)[0] for s in range(4 * e, 4 * e + 4)]) for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(64))
    assert (first != second).any()
