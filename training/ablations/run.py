"""Ablations as grids of runs: ``zoo-train ablate NAME`` trains every cell, scores it, and draws the result.

A cell is a row of a table (``training.ablations.tables``) with one seed. A finished cell has a ``result.json`` in its
folder and is not run again; an interrupted cell resumes from its checkpoint. The small setting has other images,
another network and a hundredth of the published steps. It shows an order of rows only where their intervals over seeds
do not overlap.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from math import sqrt
from pathlib import Path

import numpy as np

from training.ablations.figures import draw
from training.ablations.result import AblationResult, CellKey, CellResult, CellScores, RowResult
from training.ablations.tables import ABLATIONS, AblationRow, Setting
from training.monitoring import metrics_log
from training.recipes.config import Recipe, to_json
from zoo.datasets.dataset import Dataset
from zoo.datasets.labelled import training_splits
from zoo.errors import UserError
from zoo.system.atomic_files import atomic_write, atomic_write_text, make_folder, remove
from zoo.system.json_types import JSON


def ablate(
    name: str,
    data: str | Path,
    out: Path,
    *,
    seeds: int,
    setting: Setting,
    device: str,
    report: Callable[[str], None],
    label_column: str | None = None,
) -> AblationResult:
    """Run the missing cells of an ablation and write ``NAME.json`` and ``NAME.png`` into ``out``.

    Args:
        data: a labelled source, see ``zoo.datasets.labelled.training_splits``.
        seeds: number of seeds; each has its own initialisation, order and views. Intervals need two or more.
        report: receives a line for each cell.
        label_column: column of a list or table with the labels; default: the one with a usual name.

    Returns:
        The content of ``NAME.json``.

    Raises:
        UserError: the name is unknown, labels are missing, or ``out`` has cells of another setting or data.
    """
    # Refuse wrong options before any training starts.
    if name not in ABLATIONS:
        raise UserError(f"unknown ablation {name!r}: one of {', '.join(ABLATIONS)}")
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: give 1 or more")
    # Take the images that every cell trains on and is scored on.
    ablation, rows = ABLATIONS[name], ABLATIONS[name].rows(setting)
    train, test = (
        sample(split, count)
        for split, count in zip(training_splits(data, label_column), (setting.images, setting.queries), strict=True)
    )
    content = [train.content(), test.content()]
    # Cells: train and score the missing ones.
    total = len(rows) * seeds
    measured = []
    for number, row in enumerate(rows):
        cells = []
        for seed in range(seeds):
            folder = out / name / f"{number:02d}.seed{seed}"
            cells.append(_cell(replace(row.recipe, seed=seed), train, test, content, folder, setting, device))
            done = number * seeds + seed + 1
            report(f"{done}/{total} {row.name}, seed {seed}: {setting.score} {cells[-1]['score']:.1f} %")
        measured.append(_row_result(row, cells))
    # The table with all that it depends on, and its figure.
    result: AblationResult = {
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
    # Write the table first, as the figure can be drawn again from it.
    atomic_write_text(out / f"{name}.json", json.dumps(result, indent=1) + "\n")
    atomic_write(out / f"{name}.png", lambda file: draw(result, file))
    return result


def separated(rows: list[RowResult]) -> list[list[str]]:
    """Return the pairs [better, worse] of rows' names whose intervals do not overlap; other rows have no order."""
    ranges = [(row["name"], row["interval"]) for row in rows if row["interval"] is not None]
    return [[a, b] for a, (low, _) in ranges for b, (_, high) in ranges if low > high]


def interval(values: list[float]) -> list[float] | None:
    """Return the 95 % interval [low, high] of the mean over seeds by Student's t; ``None`` for a single value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)) / sqrt(len(values))
    mean = float(np.mean(values))
    return [round(mean - half, 2), round(mean + half, 2)]


def _row_result(row: AblationRow, cells: list[CellResult]) -> RowResult:
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


def sample(dataset: Dataset, count: int) -> Dataset:
    """Return the first ``count`` rows of a fixed permutation; with 0, all rows.

    Raises:
        UserError: there are no labels.
    """
    dataset.required_labels  # noqa: B018
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(dataset))
    return dataset.subset(order[:count]) if 0 < count < len(dataset) else dataset


def _cell(
    recipe: Recipe, train: Dataset, test: Dataset, content: list[str], folder: Path, setting: Setting, device: str
) -> CellResult:
    """Train and score one cell, or read its finished result."""
    # Name all that the score depends on, to recognise a finished cell.
    key: CellKey = {
        "recipe": json.loads(json.dumps(to_json(recipe))),
        "data": [train.name, len(train), test.name, len(test)],
        "content": content,
        "score_by": setting.score,
    }
    path = folder / "result.json"
    if path.exists():
        return _finished_result(path, key)
    import torch

    from training.engine import checkpoint
    from training.engine.loop import train as run
    from training.monitoring.hardware import hardware

    # Train the cell, or continue where an earlier call was stopped.
    make_folder(folder)
    resume = checkpoint.load_last(folder) is not None
    last = run(recipe, train, folder, device=device, resume=resume)
    state = checkpoint.read(last)
    # Score the last checkpoint and keep the facts of the run.
    result: CellResult = {
        **key,
        **_scores(last, train, test, recipe, setting, device),
        "minutes": round(state["seconds"] / 60, 2),
        "hardware": hardware(torch.device(device)),
        "curves": _curves(folder),
    }
    atomic_write_text(path, json.dumps(result, indent=1) + "\n")
    if setting.name == "small":  # nothing needs these checkpoints any more; a full run's are kept
        for checkpoint_file in folder.glob("checkpoint-*.pt"):
            remove(checkpoint_file)
        remove(folder / "last.json")
    return result


def _finished_result(path: Path, key: CellKey) -> CellResult:
    try:
        finished: CellResult = json.loads(path.read_text())
        same = all(finished[field] == key[field] for field in ("recipe", "data", "score_by"))
        same = same and finished.get("content", key["content"]) == key["content"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged: remove {path.parent}, and its cell is run again") from None
    if not same:
        raise UserError(f"{path.parent} holds a cell of another setting or data: choose another --out")
    return finished


def _scores(last: Path, train: Dataset, test: Dataset, recipe: Recipe, setting: Setting, device: str) -> CellScores:
    """Score the encoder of the checkpoint ``last``, frozen, on ``test``."""
    import torch

    import zoo
    from training.engine.checkpoint import load_weights, read
    from training.methods import build_method
    from training.monitoring.collapse import collapsed, effective_rank, output_spread
    from training.results import export
    from zoo.evaluate.frozen import knn, linear

    # The exported encoder, as a user would score it.
    encoder, size = last.parent / "encoder.safetensors", recipe.views.size
    export.export(last, encoder, input_size=size, resize=size)
    embed = zoo.load(encoder, device=device)
    bank, queries = (np.asarray(embed([d.image(i) for i in range(len(d))])) for d in (train, test))
    # Classify the test images in the way that the setting asks for.
    if setting.score == "knn":
        tensors = (torch.from_numpy(a) for a in (bank, train.required_labels, queries, test.required_labels))
        score = knn.accuracy(*tensors)
    else:
        predicted = linear.fit_predict(bank, train.required_labels, queries).predictions
        score = float((predicted == test.required_labels).mean()) * 100
    # The projections of the checkpoint, which show a collapse.
    method = build_method(recipe, len(train))
    load_weights(method, read(last), last)
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


def _curves(folder: Path) -> dict[str, list[list[JSON]]]:
    """Return the logged values of loss, spread, rank and kNN as pairs [step, value]."""
    lines = metrics_log.read(folder)
    keys = ("loss", "spread", "effective_rank", "knn")
    return {key: [[line["step"], line[key]] for line in lines if key in line] for key in keys}
