"""The fine-tuning loop: its schedule, its draws, and kills."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.evaluate.dense import finetune
from zoo.evaluate.dense.finetune import SgdConfig, batch_rows, run_sgd
from zoo.evaluate.dense.sweep import choose_learning_rate
from zoo.evaluate.errors import Diverged

SGD = SgdConfig(12, 0.05, 0.9, 1e-3, drops=(8, 10), warmup=3)


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


def number(step: int) -> int:
    """A batch that is the number of its step."""
    return step


def test_the_learning_rate_warms_up_and_drops() -> None:
    rates = [SGD.rate(s) for s in range(12)]
    assert rates[0] == pytest.approx(0.05e-3)
    assert rates[1] == pytest.approx(0.05 * (1e-3 + 0.999 / 3))
    assert rates[3:8] == [0.05] * 5
    assert rates[8:10] == pytest.approx([0.005] * 2)
    assert rates[10:] == pytest.approx([0.0005] * 2)


@pytest.mark.parametrize("decay_norms", [True, False])
def test_detectron2_decays_no_norm(decay_norms: bool) -> None:
    """``_C.SOLVER.WEIGHT_DECAY_NORM = 0.0``: without a gradient only the decay moves a parameter."""
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    config = SgdConfig(1, 0.1, 0.9, 0.5, decay_norms=decay_norms)
    loss = lambda step: sum((p * 0).sum() for p in model.parameters())  # noqa: E731
    run_sgd(model, config, number, loss, seed=0, key=f"norms {decay_norms}", device="cpu")
    norm, others = before.pop(2), before  # the scale of the norm; its shift is 0
    assert torch.equal(model[1].weight, norm * (0.95 if decay_norms else 1.0))
    rest = [p for p in model.parameters() if p is not model[1].weight]
    for p, old in zip(rest, others, strict=True):
        torch.testing.assert_close(p.detach(), old * 0.95)


def test_it_goes_on_after_a_kill_as_if_nothing_had_been(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = network()
    expected = run_sgd(whole, SGD, number, loss_of(whole), seed=0, key="a", device="cpu")
    monkeypatch.setattr(finetune, "SECONDS_PER_CHECKPOINT", 0.0)
    killed = network()
    with pytest.raises(RuntimeError, match="killed"):
        run_sgd(killed, SGD, number, loss_of(killed, stop_at=7), seed=0, key="b", device="cpu")
    assert len(list(checkpoints.glob("*.pt"))) == 1
    again = network()
    steps: list[int] = []
    inner = loss_of(again)
    losses = run_sgd(again, SGD, number, lambda s: (steps.append(s), inner(s))[1], seed=0, key="b", device="cpu")
    assert steps == list(range(7, 12))
    assert losses == expected
    for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not list(checkpoints.iterdir())  # nothing is left behind


def test_a_checkpoint_of_version_0_2_is_continued(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls the backbone trunk."""

    def wrapped() -> nn.Module:
        return nn.Sequential(OrderedDict(backbone=network()))

    whole, killed, again = wrapped(), wrapped(), wrapped()
    expected = run_sgd(whole, SGD, number, loss_of(whole), seed=0, key="a", device="cpu")
    monkeypatch.setattr(finetune, "SECONDS_PER_CHECKPOINT", 0.0)
    with pytest.raises(RuntimeError, match="killed"):
        run_sgd(killed, SGD, number, loss_of(killed, stop_at=7), seed=0, key="b", device="cpu")
    (file,) = checkpoints.glob("*.pt")
    state = torch.load(file, weights_only=True)
    state["model"] = {name.replace("backbone", "trunk"): value for name, value in state["model"].items()}
    torch.save(state, file)
    assert run_sgd(again, SGD, number, loss_of(again, stop_at=6), seed=0, key="b", device="cpu") == expected


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_starts_over(
    damage: bytes | None, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "SECONDS_PER_CHECKPOINT", 0.0)
    killed = network()
    with pytest.raises(RuntimeError):
        run_sgd(killed, SGD, number, loss_of(killed, stop_at=5), seed=0, key="c", device="cpu")
    (file,) = checkpoints.glob("*.pt")
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    again, whole = network(), network()
    expected = run_sgd(whole, SGD, number, loss_of(whole), seed=0, key="d", device="cpu")
    assert run_sgd(again, SGD, number, loss_of(again), seed=0, key="c", device="cpu") == expected


def test_the_caller_s_generator_is_left_alone() -> None:
    model = network()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run_sgd(model, SGD, number, loss_of(model), seed=0, key="e", device="cpu")
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_is_not_finite_ends_it_before_the_update() -> None:
    model = network()
    inner = loss_of(model)
    with pytest.raises(Diverged, match="step 2: give a smaller learning rate"):
        run_sgd(model, SGD, number, lambda s: inner(s) * (float("nan") if s == 2 else 1), seed=0, key="f", device="cpu")
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

    lr, tried = choose_learning_rate((0.1, 0.5, 2.0), score)
    assert lr == 0.1
    assert tried == {"0.1": 49.9, "0.5": 49.5, "2": "diverged"}
    with pytest.raises(UserError, match="no learning rate of 2, 3 converged"):
        choose_learning_rate((2.0, 3.0), score)
    assert choose_learning_rate((7.0,), score) == (7.0, {})  # one is not tried
    with pytest.raises(UserError, match="nothing to score: give one value"):
        choose_learning_rate((0.1, 0.5), lambda lr: float("nan"))


def test_each_batch_is_made_once_and_an_unreadable_image_ends_the_run_at_its_step() -> None:
    model, made, seen = network(), [], []
    inner = loss_of(model)

    def make_batch(step: int) -> int:
        made.append(step)
        if step == 6:
            raise UserError("an image cannot be read")
        return step

    with pytest.raises(UserError, match="cannot be read"):
        run_sgd(model, SGD, make_batch, lambda s: (seen.append(s), inner(s))[1], seed=0, key="g", device="cpu")
    assert seen == list(range(6))
    assert sorted(made) == sorted(set(made))
