"""Runs small enough for a test: a ResNet of 37 000 parameters, 8 images of 32 pixels a batch, ten steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.data.packed_batch import PackedImages
from training.engine import checkpoint, loop
from training.engine.build import new_run
from training.engine.loop import train_steps
from training.engine.state import Run
from training.methods import build_method
from training.recipes import table
from training.recipes.config import Heads, Objective, Recipe, View
from zoo.datasets.dataset import Dataset
from zoo.models.registry import ARCHITECTURES, Architecture

BANKS = ("instdisc", "cmc", "pirl", "infomin", "localagg", "cpc")  # take rows, and have BN per rank
APART = ("densecl", "supervised")  # have BN per rank besides
TOGETHER = ("byol", "simsiam", "simclr", "mocov2", "swav", "barlowtwins", "vicreg", "mocov3", "byol_gn")
METHODS = (*TOGETHER, *APART, *BANKS)
_OPTIM: dict[str, dict[str, Any]] = {
    "simclr": {"name": "lars_classic", "schedule": "step"},
    "swav": {"name": "larc", "schedule": "swav", "final_lr": 0.001},
}
_VIEWS: dict[str, dict[str, Any]] = {
    "swav": {"small": View(), "small_size": 24, "small_count": 2},
    "supervised": {"second": None},
    "instdisc": {"second": None},
    "cmc": {"second": None},
    "infomin": {"small": View(), "small_size": 48, "small_count": 1},
    "localagg": {"second": None},
    "cpc": {"second": None},
    "pirl": {"second": None, "small": View(), "small_size": 48, "small_count": 1},
}
_OPTIONS: dict[str, dict[str, int | float | str]] = {
    "instdisc": {"negatives": 12, "bank_momentum": 0.5, "loss": "nce"},
    "cmc": {"negatives": 12, "bank_momentum": 0.5, "loss": "nce"},
    "infomin": {"patch_weight": 0.5},
    "localagg": {
        "negatives": 12,
        "bank_momentum": 0.5,
        "loss": "nce",
        "clusterings": 2,
        "clusters": 4,
        "instance_epochs": 0.0,
    },
    "cpc": {
        "patch": 16,
        "stride": 8,
        "first_step": 1,
        "last_step": 2,
        "layers": 2,
        "drop_colours": 0.5,
        "clip": 0.5,
    },
    "byol_gn": {"groups": 4},
    "densecl": {"dense_weight": 0.5},
    "barlowtwins": {"lambd": 0.0051},
    "vicreg": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
    "pirl": {"negatives": 12, "bank_momentum": 0.5, "loss": "nce", "code": "vissl", "patch_weight": 0.5},
}
_OBJECTIVES = {
    "infomin": Objective(queue=40, temperature=0.2, key_momentum=0.9),
    "densecl": Objective(queue=40, temperature=0.2, key_momentum=0.9),
    "mocov2": Objective(queue=40, temperature=0.2, key_momentum=0.9),
    "swav": Objective(queue=8, queue_from_epoch=0, frozen_steps=2),
}
ROOT = Path(__file__).parents[1]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, here and in the processes that are started meanwhile.

    Networks this small gain nothing from a second thread. Beside other work its threads wait for each other at the end
    of every operation, which makes a test up to fifty times slower.
    """
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


def add_tiny_architecture() -> None:
    """Register ``tiny``, a ResNet-18 with a few channels, and ``tiny10``, a ResNet-10, in this process."""
    channels = (8, 8, 16, 16)
    ARCHITECTURES["tiny"] = Architecture("resnet18", 16, 36_896, {"channels": channels})  # type: ignore[index]
    shallow = {"channels": channels, "layers": (1, 1, 1, 1)}
    layer_norm = {"norm_layer": "groupnorm1"}
    ARCHITECTURES["tiny_ln"] = Architecture(  # type: ignore[index]
        "resnet18", 16, 36_896, {"channels": channels} | layer_norm
    )
    ARCHITECTURES["tiny10_ln"] = Architecture("resnet18", 16, 25_184, shallow | layer_norm)  # type: ignore[index]
    half = {"channels": (4, 4, 8, 8)}  # of CMC's two networks
    split = Architecture("resnet18", 16, 26_144, half, colours="lab")
    ARCHITECTURES["tiny_cmc"] = split  # type: ignore[index]
    ARCHITECTURES["tiny10_cmc"] = replace(split, parameters=20_192, model_args=shallow | half)  # type: ignore[index]
    ARCHITECTURES["tiny10"] = Architecture("resnet18", 16, 25_184, shallow)  # type: ignore[index]


def tiny(method: str, *, optim: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """Two epochs of batches of 8, a checkpoint every third step, no monitors."""
    add_tiny_architecture()
    base = table.find(f"{'byol' if method == 'byol' else 'simsiam'}_r18_tin32")
    settings = {"batch_size": 8, "epochs": 2, "warmup_epochs": 0.5} | _OPTIM.get(method, {}) | (optim or {})
    return replace(
        base,
        **{
            "method": method,
            "architecture": {"cmc": "tiny_cmc", "cpc": "tiny_ln", "byol_gn": "tiny_ln"}.get(method, "tiny"),
            "views": replace(base.views, size=32, **_VIEWS.get(method, {})),
            "heads": Heads(hidden=16, out=8, projector_layers=2, prototypes=12, classes=2),
            "objective": _OBJECTIVES.get(method, Objective()),
            "optim": replace(base.optim, **settings),
            "options": _OPTIONS.get(method, {}),
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
    """``recipe`` before its first step, with its network in ``dtype`` and changed by ``change``; no checkpoints."""
    method = build_method(recipe, len(dataset))
    change(method)
    recipe = replace(recipe, checkpoint_steps=1_000_000)
    return new_run(recipe, dataset, folder, torch.device("cpu"), method.to(dtype))


def step_reports(run: Run, count: int) -> list[dict[str, float]]:
    """The reports of the next ``count`` steps."""
    with closing(train_steps(run)) as steps:
        return list(islice(steps, count))


def after_step(step: int, action: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs call ``action`` when they have made ``step`` steps."""
    original = loop.train_steps

    def steps(run: Run, **options: Any) -> Generator[dict[str, float], None, None]:
        with closing(original(run, **options)) as reports:
            for report in reports:
                if run.step == step:
                    action(run)
                yield report

    monkeypatch.setattr(loop, "train_steps", steps)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it."""


def kill(run: Run) -> None:
    raise Killed


def unpacked(packed: PackedImages) -> list[torch.Tensor]:
    """Each image, uint8 [H_i, W_i, 3]."""
    sizes = zip(packed.starts, packed.heights, packed.widths, strict=True)
    return [packed.pixels[start : start + h * w].view(int(h), int(w), 3) for start, h, w in sizes]


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], limit: float) -> None:
    """Every tensor: max|difference| / max|reference| within ``limit``."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        error = (value - other[name]).abs().max() / value.abs().max().clamp(min=1e-3)
        assert error <= limit, (name, float(error))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def last(folder: Path) -> checkpoint.CheckpointState:
    state = checkpoint.load_last(folder)
    assert state is not None
    return state


def assert_same_state(first: Any, second: Any) -> None:
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
