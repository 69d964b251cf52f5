"""Runs small enough for a test: a ResNet of 37 000 parameters, 8 images of 32 pixels a batch, ten steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.data.loader import batches
from training.distributed import collectives
from training.engine import checkpoint
from training.engine.build import build_method
from training.engine.state import Run, assemble
from training.engine.step import optimiser_step
from training.recipes import table
from training.recipes.config import Heads, Objective, Recipe, View
from zoo.datasets.dataset import Dataset
from zoo.models.registry import ARCHITECTURES, Architecture

METHODS = ("byol", "simsiam", "simclr", "mocov2", "swav", "supervised")
_OPTIM: dict[str, dict[str, Any]] = {
    "simclr": {"name": "lars_classic", "schedule": "step"},
    "swav": {"name": "larc", "schedule": "swav", "final_lr": 0.001},
}
_VIEWS: dict[str, dict[str, Any]] = {
    "swav": {"small": View(), "small_size": 24, "small_count": 2},
    "supervised": {"second": None},
}
_OBJECTIVES = {
    "mocov2": Objective(queue=40, temperature=0.2, key_momentum=0.9),
    "swav": Objective(queue=8, queue_from_epoch=0, frozen_steps=2),
}
ROOT = Path(__file__).parents[1]


def add_tiny_architecture() -> None:
    """``tiny``: a ResNet-18 with a few channels, in this process."""
    ARCHITECTURES["tiny"] = Architecture("resnet18", 16, 36_896, {"channels": (8, 8, 16, 16)})  # type: ignore[index]


def tiny(method: str, *, optim: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """Two epochs of batches of 8, a checkpoint every third step, no monitors."""
    add_tiny_architecture()
    base = table.find(f"{'byol' if method == 'byol' else 'simsiam'}_r18_tin32")
    settings = {"batch_size": 8, "epochs": 2, "warmup_epochs": 0.5} | _OPTIM.get(method, {}) | (optim or {})
    return replace(
        base,
        **{
            "method": method,
            "architecture": "tiny",
            "views": replace(base.views, size=32, **_VIEWS.get(method, {})),
            "heads": Heads(hidden=16, out=8, projector_layers=2, prototypes=12, classes=2),
            "objective": _OBJECTIVES.get(method, Objective()),
            "optim": replace(base.optim, **settings),
            "checkpoint_steps": 3,
            "monitor_epochs": 0,
        }
        | changes,
    )


def tiny_run(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    change: Callable[[nn.Module], None] = lambda module: None,
) -> Run:
    """``recipe`` before its first step; its network in ``dtype``, and as ``change`` left it."""
    method: Any = build_method(recipe)
    change(method)
    return assemble(recipe, dataset, folder, torch.device("cpu"), method.to(dtype))


def step_reports(run: Run, count: int, *, start: int = 0) -> list[dict[str, float]]:
    """What ``count`` steps report, from step ``start``."""
    work = batches(
        run.dataset,
        batch_size=run.recipe.optim.batch_size,
        steps=range(start, start + count),
        seed=run.recipe.seed,
        rank=collectives.rank(),
        ranks=collectives.world_size(),
    )
    return [optimiser_step(run, batch) for batch in work]


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], limit: float) -> None:
    """Every tensor: max|difference| / max|reference| within ``limit``."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        error = (value - other[name]).abs().max() / value.abs().max().clamp(min=1e-3)
        assert error <= limit, (name, float(error))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def last(folder: Path) -> dict[str, Any]:
    state = checkpoint.load_last(folder)
    assert state is not None
    return state


def assert_same_state(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Step, network, optimiser and scaler to the last bit."""
    for key in ("step", "scaler", "skipped"):
        assert first[key] == second[key], key
    _assert_same(first["method"], second["method"], "method")
    _assert_same(first["optimiser"], second["optimiser"], "optimiser")


def _assert_same(one: Any, other: Any, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        for number, pair in enumerate(zip(one, other, strict=True)):
            _assert_same(*pair, f"{where}.{number}")
    else:
        assert one == other, where
