"""The run's own monitor: it sees a collapse, trains a probe, survives a resume, and changes no bit of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from tiny_runs import METHODS, Killed, after_step, kill, log, tiny
from torch import nn

from training.engine import checkpoint
from training.engine.loop import train
from training.methods import Method, StepInfo, build_method
from training.methods.base import recipe_architecture
from training.monitoring import collapse
from training.monitoring.online_probe import CHECK_STEPS, LinearProbe, OnlineMonitor
from training.recipes.config import Objective
from zoo.datasets.dataset import Dataset

CPU = torch.device("cpu")


def test_effective_rank_counts_directions() -> None:
    torch.manual_seed(0)
    assert collapse.effective_rank(torch.ones(50, 8)) == 1
    line = torch.randn(200, 1).sign() * torch.randn(8)
    assert collapse.effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert collapse.effective_rank(torch.randn(4000, 8)) == pytest.approx(8, abs=0.1)
    plane = torch.randn(500, 2) @ torch.linalg.qr(torch.randn(64, 2)).Q.T
    assert collapse.effective_rank(plane) == pytest.approx(2, abs=0.05)


def test_the_probe_learns_what_is_linear_and_resumes_to_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 16, generator=generator) * 5 + 3
    y = (x[:, 0] + x[:, 1] > 6).long()
    whole, resumed = LinearProbe(16, 2, CPU), LinearProbe(16, 2, CPU)
    for step in range(400):
        rows = slice(step * 10 % 600, step * 10 % 600 + 10)
        whole.learn(x[rows], y[rows])
        if step == 199:
            resumed.load_state_dict(torch.load(_saved(whole), weights_only=True))
            assert whole.accuracy() == resumed.accuracy()
        elif step > 199:
            resumed.learn(x[rows], y[rows])
    accuracy = whole.accuracy()
    assert accuracy is not None
    assert accuracy > 80
    assert accuracy == resumed.accuracy()
    assert whole.accuracy() is None
    assert torch.equal(whole.state_dict()["weight"], resumed.state_dict()["weight"])


def _saved(probe: LinearProbe) -> object:
    import io

    buffer = io.BytesIO()
    torch.save(probe.state_dict(), buffer)
    buffer.seek(0)
    return buffer


class _Fake(Method):
    """An encoder and a projector whose outputs the test chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projector = nn.Identity(), nn.Identity()


@pytest.mark.parametrize("kind", ["constant", "line"])
def test_a_collapse_is_reported_once_and_within_a_hundred_steps(kind: str) -> None:
    method = _Fake()
    monitor = OnlineMonitor(method, dim=8, classes=0, rows=32, device=CPU)
    reports = []
    for step in range(1, 401):
        z = torch.randn(32, 8)
        if step > 130:  # between two checks
            z = torch.ones(32, 8) + 1e-3 * z if kind == "constant" else z[:, :1].sign() * torch.ones(8) + 1e-4 * z
        method.projector(method.encoder(z))
        monitor.after_step(step, None)
        if monitor.warning() is not None:
            reports.append(step)
    assert reports == [175]
    assert 175 - 130 < 100
    assert CHECK_STEPS == 25


def test_byol_without_a_predictor_collapses_and_the_run_says_so(
    photos: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """[B] table 5b: without the predictor nothing keeps the outputs apart. A fast target makes it quick."""
    optim = {"batch_size": 16, "epochs": 26, "tau": 0.0, "lr": 3.0, "warmup_epochs": 1, "constant_tau": True}
    settings = {"architecture": "tiny10", "optim": optim, "checkpoint_steps": 200}
    recipe = tiny("byol", objective=Objective(predictor=False), **settings)
    train(recipe, photos, tmp_path, device="cpu")
    assert "have collapsed to a constant" in capsys.readouterr().err
    lines = log(tmp_path)
    reported = next(line["step"] for line in lines if "collapse" in line)
    first = next(line["step"] for line in lines if line.get("spread", 1) < collapse.COLLAPSE_SPREAD)
    assert reported - first <= 100


@pytest.mark.parametrize(("method", "accumulate"), [("simsiam", 2), ("simclr", 1), ("swav", 1)])
def test_a_run_is_the_same_with_the_monitor_and_without(
    photos: Dataset, tmp_path: Path, method: str, accumulate: int
) -> None:
    recipe = tiny(method, accumulate=accumulate, optim={"epochs": 1})
    train(recipe, photos, tmp_path / "watched", device="cpu")
    train(recipe, replace(photos, labels=None), tmp_path / "unlabelled", device="cpu")
    one, other = (checkpoint.load_last(tmp_path / name) for name in ("watched", "unlabelled"))
    assert one is not None
    assert other is not None
    assert all(torch.equal(one["method"][k], other["method"][k]) for k in one["method"])
    assert one["monitors"]["probe"]
    assert not other["monitors"]["probe"]


def test_a_resumed_run_has_the_probe_of_the_undisturbed_one(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("byol")
    train(recipe, photos, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as killing:
        after_step(5, kill, killing)
        with pytest.raises(Killed):
            train(recipe, photos, tmp_path / "parts", device="cpu")
    train(recipe, photos, tmp_path / "parts", device="cpu", resume=True)
    one, other = (checkpoint.load_last(tmp_path / name) for name in ("whole", "parts"))
    assert one is not None
    assert other is not None
    for key in ("weight", "bias", "counts"):
        assert torch.equal(one["monitors"]["probe"][key], other["monitors"]["probe"][key])


class _Brightest(nn.Module):
    """[N, 3, H, W] -> the largest pixel of each image, ``dim`` times; one map is pooled, as in a ResNet."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.scale = dim, nn.Parameter(torch.ones(()))
        self.pool = SelectAdaptivePool2d(flatten=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.pool(self.scale * x.amax((1, 2, 3)).view(-1, 1, 1, 1).expand(-1, self.dim, 2, 2))
        return pooled


@pytest.mark.parametrize("method", METHODS)
def test_the_probe_sees_the_image_of_each_label(method: str, photos: Dataset) -> None:
    """Whatever passes the encoder besides or before: crops, patches, views of both kinds."""
    recipe, n = tiny(method), 6
    built = build_method(recipe, len(photos))
    dim = recipe_architecture(recipe).num_features
    built.encoder = _Brightest(dim)
    monitor = OnlineMonitor(built, dim=dim, classes=2, rows=n, device=CPU)
    views = recipe.views
    sizes = [views.size] * (1 + (views.second is not None))
    sizes += [views.small_size] * (views.small_count if views.small is not None else 0)
    brightness = torch.arange(1.0, n + 1)
    images = [brightness.view(-1, 1, 1, 1).expand(-1, 3, size, size) for size in sizes]
    labels, rows = torch.tensor([0, 1] * (n // 2)), torch.arange(n)
    if not built.follower_name:  # the stub has other parameters than the network that would follow it
        built.before_step(StepInfo(0, 10, 0, 0.9))
    for _ in range(2):  # two micro-batches
        built(images, labels, *([rows] if built.uses_rows else []))
    assert monitor._features is not None
    assert monitor._features[:, 0].tolist() == brightness.tolist()
    monitor.after_step(1, labels)
    built(images, labels, *([rows] if built.uses_rows else []))
    assert monitor._features[:, 0].tolist() == brightness.tolist()
