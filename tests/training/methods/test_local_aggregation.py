"""Local Aggregation against the paper's code, and against its definition."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from relative_errors import RelativeErrors
from tiny_runs import tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from training.data.sampler import EpochSampler
from training.methods import StepInfo
from training.methods.kmeans import kmeans, kmeans_bytes
from training.methods.local_aggregation import LocalAggregation
from training.methods.memory_bank import MemoryBank
from training.methods.similarity import unit

KMEANS = "kmeans_squared_distance"


def model_of(
    images: int, dim: int, k: int, *, temperature: float = 0.07, momentum: float = 0.5, **options: float
) -> LocalAggregation:
    bank = MemoryBank(images, dim, negatives=k, temperature=temperature, momentum=momentum)
    model = LocalAggregation(nn.Identity(), dim, bank, **options)
    model.projector = nn.Identity()  # type: ignore[assignment]
    return model.double()


@pytest.mark.parametrize("case", ["la", "la_unclustered", "ir"])
def test_steps_against_the_paper_s_code(localagg_ops: Path, case: str) -> None:
    """Losses, gradients with respect to outputs of any length, and the bank, in both phases."""
    data, h = np.load(localagg_ops), json.loads(localagg_ops.with_suffix(".json").read_text())
    k = h["negatives"] if case == "ir" else h["background"]
    settings = {"temperature": h["temperature"], "momentum": h["memory_momentum"], "clusterings": h["clusterings"]}
    model = model_of(h["images"], h["dim"], k, instance_epochs=10 if case == "ir" else 0, **settings)
    model.bank.Z.fill_(2876934.2 / 1281167 * h["images"])  # .double() widened a float32
    model.bank.memory.copy_(torch.tensor(data["memory0"]))
    if case != "ir":
        model.clustered_epoch.zero_()  # as if clustered already
        model.labels.copy_(torch.tensor(data[f"{case}_labels"]))
    errors, names = RelativeErrors(torch.float64), []
    for step in range(h["steps"]):
        output = torch.tensor(data["output"][step]).requires_grad_()
        rows = torch.tensor(data["index"][step])
        if case == "ir":
            drawn = torch.cat([rows[:, None], torch.tensor(data["ir_negatives"][step])], 1)
            model.bank.draw = lambda rows, step, drawn=drawn: drawn  # type: ignore[method-assign]
        info = StepInfo(step, h["steps"], 0, 0.0)
        model.before_step(info)
        loss = model([output], None, rows)["loss"]
        loss.backward()
        model.after_step(info)
        for what, ours in (("loss", loss), ("grad", output.grad), ("memory", model.bank.memory.clone())):
            names.append(f"{what} {step}")
            errors.add(names[-1], ours, data[f"{case}_{what}"][step])
    errors.require(1e-9, names)


def squared_distance(x: torch.Tensor, labels: torch.Tensor) -> float:
    return sum(float((x[labels == n] - x[labels == n].mean(0)).square().sum()) for n in labels.unique())


def test_kmeans_comes_near_to_faiss(localagg_ops: Path) -> None:
    data, h = np.load(localagg_ops), json.loads(localagg_ops.with_suffix(".json").read_text())
    x = torch.tensor(data["memory0"])
    clusterings = [kmeans(x, h["clusters"], seed=n) for n in range(60)]
    ours, faiss = sorted(squared_distance(x, labels) for labels in clusterings), data[KMEANS]
    # So few rows have many local minima, and a few of faiss's seeds may all be lucky: no bound for ours' median.
    assert ours[0] < 1.01 * faiss.min()
    assert ours[15] < 1.25 * faiss.max()
    # Each is a local minimum: no row is nearer to the mean of another cluster.
    for labels in clusterings:
        names = labels.unique()
        means = torch.stack([x[labels == n].mean(0) for n in names])
        assert torch.equal(names[torch.cdist(x, means).argmin(1)], labels)


# ---------------------------------------------------------------- without the goldens


def test_the_loss_is_the_paper_s() -> None:
    rng = np.random.default_rng(0)
    memory, f = rng.normal(size=(12, 4)), rng.normal(size=(3, 4))
    memory /= np.linalg.norm(memory, axis=1, keepdims=True)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    labels, rows = rng.integers(0, 3, size=(2, 12)), np.array([5, 0, 11])
    model = model_of(12, 4, 6, clusterings=2)
    model.bank.memory.copy_(torch.tensor(memory))
    model.labels.copy_(torch.tensor(labels))
    total = 0.0
    for i, row in enumerate(rows):
        p = np.exp(memory @ f[i] / 0.07)
        background = np.argsort(-p)[:6]
        close = [j for j in background if any(labels[h, j] == labels[h, row] for h in range(2))]
        assert 0 < len(close) < 6
        total -= np.log(p[close].sum() / p[background].sum() + 1e-7)
    ours = model.aggregation(torch.tensor(f), torch.tensor(rows))
    assert float(ours) == pytest.approx(total / 3, rel=1e-12)


def test_z_is_fixed_and_the_phases_and_clusterings_follow_the_epochs() -> None:
    torch.manual_seed(0)
    model = model_of(40, 4, 8, clusterings=2, clusters=5, instance_epochs=1)
    f, rows = torch.randn(4, 4).double(), torch.arange(4)
    assert float(model.bank.Z) == pytest.approx(2876934.2 / 1281167 * 40, rel=1e-6)
    model.before_step(StepInfo(0, 6, 0, 0.0))
    first = model([f], None, rows)["loss"]
    drawn = model.bank.draw(rows, 0)
    p = np.exp(np.einsum("bd,bkd->bk", unit(f).numpy(), model.bank.memory[drawn].numpy()) / 0.07) / float(model.bank.Z)
    noise = 8 / 40
    right, wrong = np.log(p[:, 0] / (p[:, 0] + noise + 1e-7)), np.log(noise / (p[:, 1:] + noise + 1e-7)).sum(1)
    assert float(first) == pytest.approx(-np.mean(right + wrong), rel=1e-9)
    assert int(model.labels.max()) == 39  # each its own cluster
    model.after_step(StepInfo(0, 6, 0, 0.0))
    model.before_step(StepInfo(2, 6, 1, 0.0))
    assert (int(model.clustered_epoch), int(model.labels.max())) == (1, 4)
    assert not torch.equal(model.labels[0], model.labels[1])  # seeds of their own
    clusters = model.labels.clone()
    assert float(model([f], None, rows)["loss"]) == pytest.approx(float(model.aggregation(unit(f), rows)))
    model.after_step(StepInfo(2, 6, 1, 0.0))
    model.bank.memory.copy_(unit(torch.randn(40, 4).double()))
    model.before_step(StepInfo(3, 6, 1, 0.0))
    assert torch.equal(model.labels, clusters)  # the same epoch
    model.before_step(StepInfo(4, 6, 2, 0.0))
    assert not torch.equal(model.labels, clusters)


def test_the_first_phase_can_end_within_an_epoch() -> None:
    """Half an epoch of four steps: the bank is clustered at the third step, and again when the next epoch begins."""
    torch.manual_seed(0)
    model = model_of(40, 4, 8, clusterings=1, clusters=5, instance_epochs=0.5)
    f, rows, clustered = torch.randn(4, 4).double(), torch.arange(4), []
    sampler = EpochSampler(40, 10)
    for step in range(6):
        info = StepInfo(step, 8, sampler.epoch_at(step), 0.0, sampler.fraction_at(step))
        model.before_step(info)
        clustered.append(int(model.clustered_epoch))
        loss, second = float(model([f], None, rows)["loss"]), float(model.aggregation(unit(f), rows))
        assert (loss == pytest.approx(second)) == (step >= 2)
        model.after_step(info)
    assert clustered == [-1, -1, 0, 0, 1, 1]


def test_the_memory_of_a_clustering_is_foreseen() -> None:
    """All that k-means holds at once beside the bank: 4000 rows against 50 centres."""
    held, most = 0, 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal held, most
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and tuple(out.shape) == (4000, 50):
                held += out.nbytes
                weakref.finalize(out, free, out.nbytes)
                most = max(most, held)
            return out

    def free(size: int) -> None:
        nonlocal held
        held -= size

    with Watch():
        kmeans(torch.randn(4000, 4), 50, seed=0, iterations=2)
    assert most == kmeans_bytes(4000, 50)
    recipe = tiny("localagg")
    few, many = (
        LocalAggregation.more_memory(replace(recipe, options={**recipe.options, "clusters": n}), 4000)[0]
        for n in (1, 50)
    )
    assert many - few == kmeans_bytes(4000, 50) - kmeans_bytes(4000, 1)


def test_kmeans_finds_clusters_that_are_there() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(4, 3, generator=generator)
    truth = torch.arange(200) % 4
    x = centres[truth] + 0.1 * torch.randn(200, 3, generator=generator)
    best = min((kmeans(x, 4, seed=seed) for seed in range(8)), key=lambda labels: squared_distance(x, labels))
    assert len({(int(a), int(b)) for a, b in zip(truth, best, strict=True)}) == 4
    assert torch.equal(kmeans(x, 4, seed=3), kmeans(x, 4, seed=3))
    assert len(kmeans(x[:4], 4, seed=0).unique()) == 4
