"""The fine-tuning loop: its schedule, its draws, and kills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.evaluate.dense import finetune
from zoo.evaluate.dense.finetune import Diverged, Sgd, batch_rows, tune
from zoo.evaluate.dense.prefetch import Upcoming
from zoo.evaluate.dense.sweep import best

SGD = Sgd(12, 0.05, 0.9, 1e-3, drops=(8, 10), warmup=3)


@pytest.fixture
def checkpoints(cache: Path) -> Path:
    return cache / "tuning"


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))


def loss_of(model: nn.Module, stop_at: int = 99) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        if step == stop_at:
            raise RuntimeError("killed")
        x = torch.randn(6, 4)  # from the step's seed
        return (model(x)[:, 0] - x.sum(1)).square().mean()

    return loss


def test_the_learning_rate_warms_up_and_drops() -> None:
    rates = [SGD.rate(s) for s in range(12)]
    assert rates[0] == pytest.approx(0.05e-3)
    assert rates[1] == pytest.approx(0.05 * (1e-3 + 0.999 / 3))
    assert rates[3:8] == [0.05] * 5
    assert rates[8:10] == pytest.approx([0.005] * 2)
    assert rates[10:] == pytest.approx([0.0005] * 2)


def test_it_goes_on_after_a_kill_as_if_nothing_had_been(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = network()
    expected = tune(whole, SGD, loss_of(whole), seed=0, key="a", device="cpu")
    monkeypatch.setattr(finetune, "SECONDS_PER_CHECKPOINT", 0.0)
    killed = network()
    with pytest.raises(RuntimeError, match="killed"):
        tune(killed, SGD, loss_of(killed, stop_at=7), seed=0, key="b", device="cpu")
    assert len(list(checkpoints.glob("*.pt"))) == 1
    again = network()
    steps: list[int] = []
    inner = loss_of(again)
    losses = tune(again, SGD, lambda s: (steps.append(s), inner(s))[1], seed=0, key="b", device="cpu")
    assert steps == list(range(7, 12))
    assert losses == expected
    for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not list(checkpoints.iterdir())  # nothing is left behind


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_starts_over(
    damage: bytes | None, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "SECONDS_PER_CHECKPOINT", 0.0)
    killed = network()
    with pytest.raises(RuntimeError):
        tune(killed, SGD, loss_of(killed, stop_at=5), seed=0, key="c", device="cpu")
    (file,) = checkpoints.glob("*.pt")
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    again, whole = network(), network()
    expected = tune(whole, SGD, loss_of(whole), seed=0, key="d", device="cpu")
    assert tune(again, SGD, loss_of(again), seed=0, key="c", device="cpu") == expected


def test_the_caller_s_generator_is_left_alone() -> None:
    model = network()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tune(model, SGD, loss_of(model), seed=0, key="e", device="cpu")
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_is_not_finite_ends_it_before_the_update() -> None:
    model = network()
    inner = loss_of(model)
    with pytest.raises(Diverged, match="step 2: give a smaller learning rate"):
        tune(model, SGD, lambda s: inner(s) * (float("nan") if s == 2 else 1), seed=0, key="f", device="cpu")
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_batches_walk_through_permutations_without_a_gap() -> None:
    rows = [r for step in range(6) for r in batch_rows(1, step, 5, 10)]
    assert [epoch for epoch, _ in rows] == [0] * 10 + [1] * 10 + [2] * 10
    for epoch in range(3):
        assert sorted(r for e, r in rows if e == epoch) == list(range(10))
    assert batch_rows(1, 3, 5, 10) == rows[15:20]
    assert np.unique([r for _, r in batch_rows(1, 0, 4, 2)]).tolist() == [0, 1]  # a batch larger than the data


def test_a_learning_rate_that_diverges_loses() -> None:
    def score(lr: float) -> float:
        if lr > 1:
            raise Diverged("no")
        return 50 - lr

    lr, tried, where = best((0.1, 0.5, 2.0), score, lambda: "val")
    assert (lr, where) == (0.1, "val")
    assert tried == {"0.1": 49.9, "0.5": 49.5, "2": "diverged"}
    with pytest.raises(UserError, match="no learning rate of 2, 3 converged"):
        best((2.0, 3.0), score, lambda: "val")
    assert best((7.0,), score, lambda: "val")[0] == 7.0  # one is not tried


def test_batches_are_made_ahead_and_in_the_order_asked_for() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        if step == 6:
            raise UserError("a picture cannot be read")
        return step * step

    with Upcoming(make) as batches:
        assert [batches(step) for step in range(3, 6)] == [9, 16, 25]
        with pytest.raises(UserError, match="cannot be read"):
            batches(6)
    assert sorted(made) == sorted(set(made))  # none twice
