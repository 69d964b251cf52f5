"""What a run was, for its card: recipe, data, hardware, minutes and curves, read from the run's own log."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from training.data.sampler import Epochs
from training.engine import checkpoint
from training.monitoring import metrics_log
from training.recipes.config import from_json
from zoo.errors import UserError
from zoo.system.atomic_files import atomic_write, atomic_write_text, make_folder
from zoo.version import __version__

_POINTS = 60  # of the loss curve; each the mean of the logged losses around it


def facts(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint knows of its run, as ``zoo.publish.card.facts.Facts.training`` takes it."""
    return {
        "recipe": state["recipe"],
        "data": state["data"],
        "steps": state["step"],
        "total_steps": state["total_steps"],
        "images_seen": state["step"] * state["recipe"]["optim"]["batch_size"],
        "minutes": round(state["seconds"] / 60, 1),
        "hardware": ", then ".join(state["hardware"]),
    }


def summarise(folder: Path, out: Path) -> dict[str, Any]:
    """Writes the summary of the run in ``folder`` into the folder ``out``: ``training.json`` and ``curve.png``.

    ``minutes`` counts the time in the training loop over all resumed parts; versions are those of this environment.

    Raises:
        UserError: ``folder`` holds no run, or matplotlib is not installed.
    """
    state = checkpoint.load_last(folder)
    if state is None:
        raise UserError(f"{folder} holds no checkpoint")
    lines = metrics_log.read(folder)
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    size = max(1, -(-len(losses) // _POINTS))
    chunks = [losses[n : n + size] for n in range(0, len(losses), size)]
    summary = facts(state) | {
        "versions": {p: version(p) for p in ("torch", "torchvision", "timm")}
        | {"siamese-zoo": __version__, "python": platform.python_version()},
        "loss": [[chunk[-1][0], round(sum(v for _, v in chunk) / len(chunk), 4)] for chunk in chunks],
        "knn_monitor": [[line["epoch"], line["knn"]] for line in lines if "knn" in line],
    }
    make_folder(out)
    atomic_write_text(out / "training.json", json.dumps(summary, indent=1) + "\n")
    atomic_write(out / "curve.png", lambda file: _draw(summary, file))
    return summary


def _draw(summary: dict[str, Any], file: BinaryIO) -> None:
    """Loss by step, and the kNN monitor by step on a second axis."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'siamese-zoo[train]'") from None
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*summary["loss"], strict=True), color="tab:blue")
    axes.set_xlabel("step")
    axes.set_ylabel("loss", color="tab:blue")
    if summary["knn_monitor"]:
        optim = from_json(summary["recipe"]).optim
        epochs = Epochs(summary["data"]["images"], optim.batch_size, optim.drop_last)
        other = axes.twinx()
        steps = [epochs.steps(epoch) for epoch, _ in summary["knn_monitor"]]
        other.plot(steps, [v for _, v in summary["knn_monitor"]], "o-", color="tab:orange", markersize=3)
        other.set_ylabel("kNN monitor, %", color="tab:orange")
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
