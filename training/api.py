"""Train from Python."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from training.engine import checkpoint, loop
from training.engine.validate import check_settings
from training.monitoring.loggers import OpenLogger
from training.recipes.config import Recipe
from training.recipes.table import find
from zoo.datasets.dataset import Dataset
from zoo.datasets.opening import open_training_data
from zoo.datasets.torch_dataset import MapDataset, from_torch


def train(
    recipe: Recipe | str,
    data: str | os.PathLike[str] | Dataset | MapDataset,
    out: str | os.PathLike[str],
    *,
    device: str | None = None,
    resume: bool | None = None,
    loggers: Sequence[OpenLogger] = (),
    changing: Collection[str] = (),
    init: str | None = None,
    label_column: str | None = None,
) -> Path:
    """Train a recipe and return the path of the last checkpoint.

    Args:
        recipe: a recipe, which ``dataclasses.replace`` edits; or its name, or ``MODULE:NAME``.
        data: what ``zoo-train run --data`` takes; or a torch ``Dataset`` whose items begin with a PIL image or uint8
            [H, W, 3] (``zoo.datasets.torch_dataset.from_torch``).
        out: folder for checkpoints and ``log.jsonl``.
        device: ``cpu``, ``cuda`` or ``cuda:1``; default: the GPU if there is one.
        resume: continue the run in ``out``; default: if it holds one. A run of other settings or data is refused.
        changing: fields that a resumed run may change: ``optim.epochs``, ``optim.lr``, ``optim.batch_size``,
            ``accumulate`` and ``early_stop_patience``; the schedules are planned again.
        init: weights from which the encoder of a new run starts: a name of the zoo, a folder or a file.
        label_column: column of a list or table with the labels; default: the one with a usual name.
        loggers: opened with the folder, the step and the recipe; each then receives what the log receives.

    Raises:
        UserError: as ``training.engine.loop.train``.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the step in progress is complete and saved.
    """
    import torch

    config = find(recipe) if isinstance(recipe, str) else recipe
    check_settings(config)
    if isinstance(data, str | os.PathLike):
        dataset = open_training_data(os.fspath(data), label_column)
    else:
        dataset = data if isinstance(data, Dataset) else from_torch(data)
    folder = Path(out)
    return loop.train(
        config,
        dataset,
        folder,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        resume=checkpoint.load_last(folder) is not None if resume is None else resume,
        loggers=loggers,
        changing=changing,
        init=init,
    )
