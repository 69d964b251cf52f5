"""The monitor tells a collapsed network from a healthy one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from training import monitors, recipes
from training.build import build_method
from training.config import Heads
from training.loop import train
from zoo.datasets import open_dataset

CPU = torch.device("cpu")


def test_spread_is_one_for_isotropic_and_zero_for_constant_outputs() -> None:
    torch.manual_seed(0)
    assert monitors.output_spread(torch.randn(4000, 64)) == pytest.approx(1, abs=0.02)
    assert monitors.output_spread(torch.ones(100, 64) * 3) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_fresh_network_is_healthy_and_stays_in_train_mode(labelled_folder: Path, labelled: bool) -> None:
    dataset = open_dataset(labelled_folder)
    dataset = dataset if labelled else replace(dataset, labels=None)
    method = build_method(replace(recipes.find("byol_r18_tin32"), heads=Heads(hidden=16, out=8)))
    health = monitors.examine(method, dataset, size=32, device=CPU)
    assert health.spread > monitors.COLLAPSED
    assert (health.knn is not None) == labelled
    assert method.training


def test_byol_without_a_predictor_collapses_and_the_run_says_so(
    labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """[B] table 5b: without the predictor nothing keeps the outputs apart. A fast target makes it quick."""
    from training import loop

    def without_predictor(recipe: recipes.Recipe) -> object:
        method = build_method(recipe)
        method.predictor = nn.Sequential(nn.Identity())
        return method

    monkeypatch.setattr(loop, "build_method", without_predictor)
    base = recipes.find("byol_r18_tin32")
    optim = replace(base.optim, batch_size=16, epochs=30, tau=0.0, lr=3.0, warmup_epochs=1)
    recipe = replace(base, heads=Heads(hidden=16, out=8), optim=optim, monitor_epochs=30)
    train(recipe, open_dataset(labelled_folder), tmp_path, device="cpu")
    assert "have collapsed to a constant" in capsys.readouterr().err
