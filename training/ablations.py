"""The seed's ablations as grids of runs: ``zoo-train ablate NAME`` trains every cell, scores it, prints and draws.

A cell is a row of a table with one seed. Its folder holds ``result.json`` once it is done and is not run again; one
that was interrupted goes on from its checkpoint.

Published numbers are of R50 on ImageNet, 300 epochs, linear evaluation ([B] tables 5, 16, 17; the seed's pages
"Ablation"), those of the stop-gradient of [S] figure 2. The small setting has other images, another network and a
hundredth of the steps: it shows what the code does, and an order only where intervals over seeds are apart.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from training import recipes
from training.config import Heads, Objective, Optim, Recipe, View, Views, to_json
from zoo.datasets import Dataset, evaluation_splits
from zoo.errors import UserError
from zoo.files import atomic_write, atomic_write_text, make_folder, remove

# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        label: what differs.
        method: the column it stands in, for tables that compare two methods; empty otherwise.
        published: in percent; ``None`` where only a curve was published.
    """

    label: str
    recipe: Recipe
    published: float | None
    method: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method}, {self.label}" if self.method else self.label


@dataclass(frozen=True)
class Setting:
    """Where an ablation is run.

    Attributes:
        images, queries: how many training and test images are used; 0 for all.
        score: ``knn`` (k = 20, t = .07) or ``linear``.
        batch_sizes: of the images normalised together, the first is the optimiser's.
        byol, simclr, simsiam: the recipes that the rows vary.
    """

    name: str
    images: int
    queries: int
    score: str
    batch_sizes: tuple[int, ...]
    byol: Recipe
    simclr: Recipe
    simsiam: Recipe


@dataclass(frozen=True)
class Ablation:
    """A table of the seed.

    Attributes:
        source: of the published numbers.
        rows: from a setting.
    """

    title: str
    source: str
    rows: Callable[[Setting], list[Row]]


# ---------------------------------------------------------------- settings


def full() -> Setting:
    """As published: R50, ImageNet-1k, batch 4096, 300 epochs ([B] section 5); SimSiam 100 epochs ([S] section 4)."""
    byol = replace(recipes.byol_in1k("r50", 300), name="byol")
    simclr = replace(recipes.simclr_in1k("r50", 300), name="simclr")
    simsiam = replace(recipes.simsiam_in1k("r50", 100), name="simsiam")
    return Setting("full", 0, 0, "linear", (4096, 2048, 1024, 512, 256, 128, 64), byol, simclr, simsiam)


def small() -> Setting:
    """Two CPU cores: a narrow R10 with the 3x3 stem, 20-pixel views of 5 000 images, 4 epochs of batch 64, SGD.

    20 pixels are the fewest at which BYOL's blur has more than one tap.
    """
    view = View(min_area=0.2, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    views = Views(size=20, first=view, second=replace(view, blur_p=0.1, solarize_p=0.2))
    optim = Optim(name="sgd", lr=0.2, batch_size=64, epochs=4, warmup_epochs=0.25, weight_decay=1e-4, tau=0.99)
    base = Recipe(
        "byol",
        "byol",
        "r10",
        stem="cifar",
        zero_init_residual=True,
        views=views,
        heads=Heads(hidden=256, out=64),
        optim=optim,
        monitor_epochs=0,
        checkpoint_steps=100,
    )
    simclr = replace(base, name="simclr", method="simclr", heads=Heads(out=64, projector_layers=2))
    simsiam = replace(
        base,
        name="simsiam",
        method="simsiam",
        heads=Heads(hidden=64, out=256, projector_layers=2),
        optim=replace(optim, fixed_predictor_lr=True, weight_decay=5e-4),
    )
    return Setting("small", 5000, 1000, "knn", (256, 128, 64, 32, 16), base, simclr, simsiam)


# ---------------------------------------------------------------- the tables


def _target(setting: Setting) -> list[Row]:
    """tau follows the annealing of section 3.3 but in the last row, which stays at 0 ([B] table 5a, its footnote)."""

    def row(label: str, tau: float, published: float) -> Row:
        optim = replace(setting.byol.optim, tau=tau, constant_tau=tau == 0)
        return Row(label, replace(setting.byol, optim=optim), published)

    return [
        row("constant random network, tau = 1", 1.0, 18.8),
        row("moving average, tau = .999", 0.999, 69.8),
        row("moving average, tau = .99", 0.99, 72.5),
        row("moving average, tau = .9", 0.9, 68.4),
        row("stop gradient of online, tau = 0", 0.0, 0.3),
    ]


def _beta(setting: Setting) -> list[Row]:
    """Between BYOL and SimCLR, temperature .1 ([B] table 5b and app. F.4: without a target gradients flow)."""
    table = (
        ("BYOL", True, True, 0, 72.5),
        ("", True, True, 1, 70.9),
        ("", False, True, 1, 70.7),
        ("SimCLR", False, False, 1, 69.4),
        ("", True, False, 1, 69.1),
        ("", True, False, 0, 0.3),
        ("", False, True, 0, 0.2),
        ("", False, False, 0, 0.1),
    )
    rows = []
    for name, predictor, target, beta, published in table:
        objective = Objective(temperature=0.1, predictor=predictor, target=target, beta=beta)
        signs = f"predictor {'x' if predictor else '-'}, target {'x' if target else '-'}, beta {beta}"
        label = f"{signs} ({name})" if name else signs
        rows.append(Row(label, replace(setting.byol, objective=objective), published))
    return rows


def _batch_size(setting: Setting) -> list[Row]:
    """[B] app. F.2: a batch N times smaller, gradients averaged over N of them, one target update in N.

    So the optimiser's batch stays, and ``accumulate`` splits it: BN statistics and SimCLR's negatives are those of
    the small batch.
    """
    published = {  # table 16
        "BYOL": (72.5, 72.4, 72.2, 72.2, 71.8, 69.6, 59.7),
        "SimCLR": (67.9, 67.8, 67.4, 66.5, 64.3, 63.6, 59.2),
    }
    largest = setting.batch_sizes[0]
    rows = []
    for method, base in (("BYOL", setting.byol), ("SimCLR", setting.simclr)):
        optim = replace(base.optim, batch_size=largest)
        for number, size in enumerate(setting.batch_sizes):
            recipe = replace(base, optim=optim, accumulate=largest // size)
            # a small setting's sizes are not the published ones
            value = published[method][number] if setting.name == "full" else None
            rows.append(Row(str(size), recipe, value, method))
    return rows


def _views(setting: Setting) -> list[Row]:
    """Transformations removed one after the other ([B] figure 3b and table 17)."""
    none = {"grayscale_p": 0.0, "jitter_p": 0.0, "solarize_p": 0.0, "flip_p": 0.0, "blur_p": 0.0}
    color = {"grayscale_p": 0.0, "jitter_p": 0.0}
    steps: tuple[tuple[str, dict[str, float], tuple[float, float]], ...] = (
        ("baseline", {}, (72.5, 67.9)),
        ("remove grayscale", {"grayscale_p": 0.0}, (70.3, 61.9)),
        ("remove color", color, (63.4, 45.7)),
        ("crop and blur only", color | {"solarize_p": 0.0, "flip_p": 0.0}, (61.1, 41.7)),
        ("crop only", none, (59.4, 40.3)),
    )
    rows = []
    for column, (method, base) in enumerate((("BYOL", setting.byol), ("SimCLR", setting.simclr))):
        for label, changes, published in steps:
            second = base.views.second or base.views.first
            first, second = (replace(v, **changes) for v in (base.views.first, second))
            recipe = replace(base, views=replace(base.views, first=first, second=second))
            rows.append(Row(label, recipe, published[column], method))
    return rows


def _stop_gradient(setting: Setting) -> list[Row]:
    """[S] section 4.1, figure 2: with the stop-gradient 67.7 (linear, 100 epochs), without it chance, .1."""
    base = replace(setting.simsiam, monitor_epochs=1)
    without = replace(base, objective=replace(base.objective, stop_gradient=False))
    return [Row("with stop-gradient", base, 67.7), Row("without stop-gradient", without, 0.1)]


ABLATIONS: Mapping[str, Ablation] = {
    "target": Ablation("Target modes", "[B] table 5a", _target),
    "beta": Ablation("Between BYOL and SimCLR", "[B] table 5b", _beta),
    "batch-size": Ablation("Batch size", "[B] figure 3a, table 16", _batch_size),
    "views": Ablation("Removing image transformations", "[B] figure 3b, table 17", _views),
    "stop-gradient": Ablation("Stop-gradient", "[S] figure 2", _stop_gradient),
}


# ---------------------------------------------------------------- running


def ablate(
    name: str,
    data: Path,
    out: Path,
    *,
    seeds: int,
    setting: Setting,
    device: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Runs what is missing of the ablation ``name`` and writes ``NAME.json`` and ``NAME.png`` into ``out``.

    Args:
        data: a labelled source with the splits train and test (or val).
        seeds: how many; each has its own initialisation, order and views. Intervals need two.
        say: receives a line for each cell.

    Returns:
        What the JSON holds.

    Raises:
        UserError: unknown name, no labels, or cells in ``out`` of another setting or data.
    """
    if name not in ABLATIONS:
        raise UserError(f"unknown ablation {name!r}: one of {', '.join(ABLATIONS)}")
    if not 1 <= seeds <= len(_T95) + 1:
        raise UserError(f"--seeds is 1 to {len(_T95) + 1}")
    ablation, rows = ABLATIONS[name], ABLATIONS[name].rows(setting)
    train, test = (
        _some(split, count)
        for split, count in zip(evaluation_splits(data), (setting.images, setting.queries), strict=True)
    )
    total = len(rows) * seeds
    measured = []
    for number, row in enumerate(rows):
        cells = []
        for seed in range(seeds):
            folder = out / name / f"{number:02d}.seed{seed}"
            cells.append(_cell(replace(row.recipe, seed=seed), train, test, folder, setting, device))
            done = number * seeds + seed + 1
            say(f"{done}/{total} {row.name}, seed {seed}: {setting.score} {cells[-1]['score']:.1f} %")
        measured.append(_summary(row, cells))
    result = {
        "ablation": name,
        "title": ablation.title,
        "source": ablation.source,
        "setting": setting.name,
        "score": setting.score,
        "seeds": seeds,
        "data": {"train": [train.name, len(train)], "test": [test.name, len(test)]},
        "base": {"byol": to_json(setting.byol), "simclr": to_json(setting.simclr), "simsiam": to_json(setting.simsiam)},
        "versions": {p: version(p) for p in ("torch", "timm")} | {"python": platform.python_version()},
        "rows": measured,
        "apart": separated(measured),
    }
    atomic_write_text(out / f"{name}.json", json.dumps(result, indent=1) + "\n")
    from training.ablation_figures import draw

    atomic_write(out / f"{name}.png", lambda file: draw(result, file))
    return result


def separated(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Pairs [better, worse] of rows' names whose intervals do not overlap; nothing else is an order."""
    ranges = [(row["name"], row["interval"]) for row in rows if row["interval"] is not None]
    return [[a, b] for a, (low, _) in ranges for b, (_, high) in ranges if low > high]


def interval(values: list[float]) -> list[float] | None:
    """95 % interval [low, high] of the mean over seeds, by Student's t; ``None`` for a single value."""
    if len(values) < 2:
        return None
    half = _T95[len(values) - 2] * float(np.std(values, ddof=1)) / sqrt(len(values))
    mean = float(np.mean(values))
    return [round(mean - half, 2), round(mean + half, 2)]


def _summary(row: Row, cells: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [cell["score"] for cell in cells]
    return {
        "name": row.name,
        "label": row.label,
        "method": row.method,
        "published": row.published,
        "mean": round(float(np.mean(scores)), 2),
        "interval": interval(scores),
        "spread": round(float(np.mean([cell["spread"] for cell in cells])), 3),
        "rank": round(float(np.mean([cell["rank"] for cell in cells])), 2),
        "collapsed": sum(cell["collapsed"] for cell in cells),
        "cells": cells,
    }


def _some(dataset: Dataset, count: int) -> Dataset:
    """The first ``count`` rows of a fixed permutation; all of them for 0."""
    dataset.required_labels  # noqa: B018  a UserError without
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(dataset))
    return dataset.subset(order[:count]) if 0 < count < len(dataset) else dataset


def _cell(recipe: Recipe, train: Dataset, test: Dataset, folder: Path, setting: Setting, device: str) -> dict[str, Any]:
    """Trains and scores one cell, or reads what it gave before."""
    identity = {
        "recipe": json.loads(json.dumps(to_json(recipe))),
        "data": [train.name, len(train), test.name, len(test)],
        "score_by": setting.score,
    }
    path = folder / "result.json"
    if path.exists():
        before: dict[str, Any] = json.loads(path.read_text())
        if {k: before.get(k) for k in identity} != identity:
            raise UserError(f"{folder} holds a cell of another setting or data: choose another --out")
        return before
    import torch

    from training import checkpoint
    from training.hardware import hardware
    from training.loop import train as run

    make_folder(folder)
    resume = checkpoint.load_last(folder) is not None
    last = run(recipe, train, folder, device=device, resume=resume)
    state = checkpoint.read(last)
    result = (
        identity
        | _measure(last, train, test, recipe, setting, device)
        | {
            "minutes": round(state["seconds"] / 60, 2),
            "hardware": hardware(torch.device(device)),
            "curves": _curves(folder / "log.jsonl"),
        }
    )
    atomic_write_text(path, json.dumps(result, indent=1) + "\n")
    if setting.name == "small":  # what the result needs is in it; a full run's checkpoints stay
        for checkpoint_file in folder.glob("checkpoint-*.pt"):
            remove(checkpoint_file)
        remove(folder / "last.json")
    return result


def _measure(
    last: Path, train: Dataset, test: Dataset, recipe: Recipe, setting: Setting, device: str
) -> dict[str, Any]:
    """Score of the frozen encoder on ``test``; spread and effective rank of the projections there."""
    import torch

    import zoo
    from training import to_zoo
    from training.build import build_method
    from training.checkpoint import read
    from training.monitors import collapsed, effective_rank, output_spread
    from zoo.evaluate import knn, linear

    encoder, size = last.parent / "encoder.safetensors", recipe.views.size
    to_zoo.export(last, encoder, input_size=size, resize=size)
    embed = zoo.load(encoder, device=device)
    bank, queries = (np.asarray(embed([d.image(i) for i in range(len(d))])) for d in (train, test))
    if setting.score == "knn":
        tensors = (torch.from_numpy(a) for a in (bank, train.required_labels, queries, test.required_labels))
        score = knn.accuracy(*tensors)
    else:
        predicted = linear.fit_predict(bank, train.required_labels, queries).predictions
        score = float((predicted == test.required_labels).mean()) * 100
    method = build_method(recipe)
    method.load_state_dict(read(last)["method"])
    method.eval()
    with torch.no_grad():
        outputs = method.projector(torch.from_numpy(queries))
    spread, rank = output_spread(outputs), effective_rank(outputs)
    return {
        "score": round(score, 2),
        "spread": round(spread, 4),
        "rank": round(rank, 2),
        "collapsed": collapsed(spread, rank),
    }


def _curves(log: Path) -> dict[str, list[list[float]]]:
    """Loss, spread, rank and kNN by step, as far as the run logged them."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    keys = ("loss", "spread", "effective_rank", "knn")
    return {key: [[line["step"], line[key]] for line in lines if key in line] for key in keys}
