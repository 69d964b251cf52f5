"""A run that ends on a plateau of the kNN, and the finetuning monitor: both off by default, both the same on resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import METHODS, Killed, after_step, assert_same_state, kill, last, log, tiny

from training.engine import loop
from training.engine.loop import train
from training.monitoring import finetune_probe
from training.monitoring.collapse import Measurement
from training.monitoring.early_stop import EarlyStop
from training.monitoring.finetune_probe import finetuned_accuracy
from training.recipes.config import Recipe, from_json, to_json
from training.results.summary import summarise
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError

CPU = torch.device("cpu")


def lines(folder: Path) -> list[dict[str, object]]:
    """The log without times, and without what a resumed run adds."""
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in log(folder) if "hardware" not in line]


@pytest.fixture
def knn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Values that the monitors of the coming evaluations measure, beside the spread and rank that they have."""
    values: list[float] = []
    measured = loop.measure_outputs

    def given(*arguments: object, **options: object) -> Measurement:
        found = measured(*arguments, **options)  # type: ignore[arg-type]
        return replace(found, knn=values.pop(0))

    monkeypatch.setattr(loop, "measure_outputs", given)
    return values


def test_the_rule_counts_evaluations_without_a_new_best() -> None:
    rule = EarlyStop(2)
    for epoch, value in enumerate((10.0, 12.0, 12.0, 11.0), 1):
        assert rule.reason is None
        rule.add(epoch, value)
    assert rule.reason == "kNN has not risen above the 12.00 % of epoch 2 in 2 evaluations"
    again = EarlyStop(2)
    again.load_state_dict(rule.state_dict())
    assert again.reason == rule.reason
    again.add(5, 12.5)
    assert again.reason is None
    never = EarlyStop(0)
    for epoch in range(1, 50):
        never.add(epoch, 1.0)
    assert never.reason is None


def test_a_run_ends_on_a_plateau_and_says_so(
    photos: Dataset, tmp_path: Path, knn: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(tiny("simsiam", optim={"epochs": 9}), monitor_epochs=1, early_stop_patience=2)
    knn += [50.0, 60.0, 60.0, 55.0, 99.0, 99.0]
    path = train(recipe, photos, tmp_path / "run", device="cpu")
    state = last(tmp_path / "run")
    per_epoch = state["total_steps"] // 9
    assert state["step"] == 4 * per_epoch
    assert path.name == f"checkpoint-{state['step']:08d}.pt"
    reason = "kNN has not risen above the 60.00 % of epoch 2 in 2 evaluations"
    assert lines(tmp_path / "run")[-1] == {"step": state["step"], "early_stop": reason}
    assert f"the run ends early: {reason}" in capfd.readouterr().err
    facts = summarise(tmp_path / "run", tmp_path / "facts")
    assert facts["early_stop"] == json.loads((tmp_path / "facts" / "training.json").read_text())["early_stop"] == reason
    # It has ended: to resume it does nothing, unless the patience is changed.
    before = lines(tmp_path / "run")
    assert train(recipe, photos, tmp_path / "run", device="cpu", resume=True) == path
    assert lines(tmp_path / "run") == before
    assert "the run has ended: kNN" in capfd.readouterr().err
    on = replace(recipe, early_stop_patience=0)
    with pytest.raises(UserError, match=r"its early_stop_patience is 2, this one's is 0 \(--change"):
        train(on, photos, tmp_path / "run", device="cpu", resume=True)
    knn += [99.0] * 9
    train(on, photos, tmp_path / "run", device="cpu", resume=True, changing={"early_stop_patience"})
    assert last(tmp_path / "run")["step"] == 9 * per_epoch
    assert "early_stop" not in summarise(tmp_path / "run", tmp_path / "facts")


@pytest.mark.parametrize("at", [6, 13, 16])
def test_a_killed_run_ends_where_an_unbroken_one_does_bit_for_bit(
    at: int, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real kNN values, which a small run repeats soon; the finetuning monitor runs beside it."""
    settings = {"monitor_epochs": 1, "early_stop_patience": 2, "finetune_epochs": 2}
    recipe = replace(tiny("byol", optim={"epochs": 12, "lr": 0.0}), **settings)
    train(recipe, photos, tmp_path / "whole", device="cpu")
    assert last(tmp_path / "whole")["step"] < last(tmp_path / "whole")["total_steps"]
    with monkeypatch.context() as patch:
        after_step(min(at, last(tmp_path / "whole")["step"] - 1), kill, patch)
        with pytest.raises(Killed):
            train(recipe, photos, tmp_path / "killed", device="cpu")
    train(recipe, photos, tmp_path / "killed", device="cpu", resume=True)
    assert_same_state(last(tmp_path / "killed"), last(tmp_path / "whole"))
    assert last(tmp_path / "killed")["early_stop"] == last(tmp_path / "whole")["early_stop"]
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


def test_the_monitors_change_no_weight(photos: Dataset, tmp_path: Path) -> None:
    plain = tiny("simsiam")
    train(plain, photos, tmp_path / "plain", device="cpu")
    watched = replace(plain, monitor_epochs=1, finetune_epochs=1, early_stop_patience=99)
    train(watched, photos, tmp_path / "watched", device="cpu")
    assert_same_state(last(tmp_path / "watched"), last(tmp_path / "plain"))
    found = [line for line in log(tmp_path / "watched") if "finetune" in line]
    assert [line["epoch"] for line in found] == [1, 2]
    assert all(0 <= line["finetune"] <= 100 for line in found)
    facts = summarise(tmp_path / "watched", tmp_path / "facts")
    assert facts["finetune_monitor"] == [(line["epoch"], line["finetune"]) for line in found]
    assert "finetune_monitor" not in summarise(tmp_path / "plain", tmp_path / "facts")


def test_finetuning_learns_and_leaves_the_random_state() -> None:
    """Two classes that a mean tells apart: bright and dark images."""
    import numpy as np

    from training.methods import build_method

    recipe = tiny("simsiam")
    pixels = np.random.default_rng(0).integers(0, 100, (120, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(120) % 2
    pixels[labels == 1] += 120
    data = Dataset("bright", labels.astype(np.int64), ["0", "1"], lambda i: pixels[i], str, 120)
    method = build_method(recipe)
    weights, random = method.encoder.state_dict(), torch.random.get_rng_state()
    before = {name: value.clone() for name, value in weights.items()}
    first = finetuned_accuracy(method, recipe, data, epoch=3, device=CPU)
    assert first is not None
    assert first > 80
    assert finetuned_accuracy(method, recipe, data, epoch=3, device=CPU) == first
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in method.encoder.state_dict().items())
    unlabelled = replace(data, labels=None)
    assert finetuned_accuracy(method, recipe, unlabelled, epoch=1, device=CPU) is None


@pytest.mark.parametrize("name", METHODS)
def test_finetuning_starts_from_the_network_that_is_trained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its layers use their weights otherwise than plain ones, as BYOL's without BN."""
    import numpy as np

    from training.methods import build_method

    recipe = tiny(name)
    pixels = np.random.default_rng(0).integers(0, 255, (10, 32, 32, 3), dtype=np.uint8)
    data = Dataset("few", np.arange(10) % 2, ["0", "1"], lambda i: pixels[i], str, 10)
    method = build_method(recipe, 10)
    for p in method.encoder.parameters():  # as after some training
        p.data.add_(0.02)
    copies: list[torch.nn.Sequential] = []
    monkeypatch.setattr(finetune_probe, "_train", lambda network, *others: copies.append(network))
    finetuned_accuracy(method, recipe, data, epoch=1, device=CPU)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = method.eval().encoder(x)
        torch.testing.assert_close(copies[0][0](x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("changes", "labelled", "message"),
    [
        ({"early_stop_patience": 3, "monitor_epochs": 0}, True, "needs the kNN of the monitors: set monitor_epochs"),
        ({"early_stop_patience": 3, "monitor_epochs": 1}, False, "early_stop_patience needs labels"),
        ({"finetune_epochs": 1}, False, "finetune_epochs needs labels"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    changes: dict[str, int], labelled: bool, message: str, photos: Dataset, tmp_path: Path
) -> None:
    data = photos if labelled else replace(photos, labels=None)
    with pytest.raises(UserError, match=message):
        train(replace(tiny("simsiam"), **changes), data, tmp_path, device="cpu")


def test_recipes_without_them_are_written_as_before() -> None:
    recipe = tiny("simsiam")
    assert not {"early_stop_patience", "finetune_epochs"} & to_json(recipe).keys()
    changed: Recipe = replace(recipe, early_stop_patience=4, finetune_epochs=2)
    assert from_json(to_json(changed)) == changed
