"""The summary of a run for its model card: recipe, data, hardware, minutes and curves, read from the run's folder."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, NotRequired, TypedDict

from training.data.sampler import EpochSampler
from training.engine import checkpoint
from training.engine.checkpoint import CheckpointState, DataInfo, InitialWeights
from training.monitoring import metrics_log
from training.monitoring.metrics_log import LogLine
from training.recipes.config import from_json
from training.results.plot import new_figure, save_png
from zoo.errors import UserError
from zoo.system.atomic_files import atomic_write, atomic_write_text, make_folder
from zoo.system.json_types import JSON
from zoo.version import __version__

_POINTS = 60  # number of points of the loss curve


class RunFacts(TypedDict):
    """The facts about a run in its checkpoint, in the form of ``zoo.publish.card.facts.Facts.training``."""

    recipe: dict[str, JSON]
    data: DataInfo
    steps: int
    total_steps: int
    images_seen: int
    minutes: float
    hardware: str
    init: NotRequired[InitialWeights]
    versions: NotRequired[dict[str, str]]


class RunSummary(RunFacts):
    """The content of ``training.json``: the facts, and pairs [step, loss] and [epoch, kNN accuracy in percent].

    A run with the finetuning monitor has its pairs too, and one that ended early says why.
    """

    loss: list[tuple[int, float]]
    knn_monitor: list[tuple[int, float]]
    finetune_monitor: NotRequired[list[tuple[int, float]]]
    early_stop: NotRequired[str]


def run_facts(state: CheckpointState) -> RunFacts:
    """Return the facts about a run in its checkpoint."""
    facts: RunFacts = {
        "recipe": state["recipe"],
        "data": state["data"],
        "steps": state["step"],
        "total_steps": state["total_steps"],
        "images_seen": state["step"] * from_json(state["recipe"]).optim.batch_size,
        "minutes": round(state["seconds"] / 60, 1),
        "hardware": ", then ".join(state["hardware"]),
    }
    if "init" in state:
        facts["init"] = state["init"]
    return facts


def summarise(folder: Path, out: Path) -> RunSummary:
    """Write the summary of the run in ``folder`` into the folder ``out``: ``training.json`` and ``curve.png``.

    ``minutes`` is the time in the training loop over all parts of a resumed run. Versions are those of this
    environment.

    Raises:
        UserError: ``folder`` holds no run, or matplotlib is not installed.
    """
    # Read the last checkpoint and the log beside it.
    state = checkpoint.load_last(folder)
    if state is None:
        raise UserError(f"{folder} holds no checkpoint: give the folder of a run")
    checkpoint.require_complete(state, folder)
    lines = metrics_log.read(folder)
    steps, losses = metrics_log.curve(lines, "loss", most=_POINTS)
    # Collect the facts of the run.
    versions = {package: version(package) for package in ("torch", "torchvision", "timm")}
    summary: RunSummary = {
        **run_facts(state),  # type: ignore[typeddict-item]  # mypy asks for keys that are not required
        "versions": versions | {"siamese-zoo": __version__, "python": platform.python_version()},
        "loss": [(step, round(value, 4)) for step, value in zip(steps, losses, strict=True)],
        "knn_monitor": _by_epoch(lines, "knn"),
    }
    if finetuned := _by_epoch(lines, "finetune"):
        summary["finetune_monitor"] = finetuned
    if reasons := [line["early_stop"] for line in lines if "early_stop" in line and line["step"] == state["step"]]:
        summary["early_stop"] = str(reasons[-1])
    # Write the numbers, then draw the curve from them.
    make_folder(out)
    atomic_write_text(out / "training.json", json.dumps(summary, indent=1) + "\n")
    atomic_write(out / "curve.png", lambda file: _draw(summary, file))
    return summary


def _by_epoch(lines: list[LogLine], field: str) -> list[tuple[int, float]]:
    return [
        (epoch, value)
        for line in lines
        if isinstance(value := line.get(field), int | float) and isinstance(epoch := line.get("epoch"), int)
    ]


def _draw(summary: RunSummary, file: BinaryIO) -> None:
    """Draw the loss by step, and the kNN monitor by step on a second axis."""
    # Draw the loss on the left axis.
    figure = new_figure(7, 3)
    axes = figure.subplots()
    axes.plot(*zip(*summary["loss"], strict=True), color="tab:blue")
    axes.set_xlabel("step")
    axes.set_ylabel("loss", color="tab:blue")
    # Draw the kNN accuracy on an axis of its own, at the steps where its epochs end.
    if summary["knn_monitor"]:
        optim = from_json(summary["recipe"]).optim
        sampler = EpochSampler(summary["data"]["images"], optim.batch_size, optim.drop_last)
        epochs, accuracies = zip(*summary["knn_monitor"], strict=True)
        knn_axes = axes.twinx()
        knn_axes.plot([sampler.steps(e) for e in epochs], accuracies, "o-", color="tab:orange", markersize=3)
        knn_axes.set_ylabel("kNN monitor, %", color="tab:orange")
    save_png(figure, file)
