"""Measure the rate of training here, by a few steps of a recipe on made images."""

from __future__ import annotations

import io
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.engine.build import new_run
from training.engine.cost import Rate, operations
from training.engine.loop import tf32, train_steps
from training.engine.memory import require_fit
from training.engine.oom import explain_out_of_memory
from training.engine.validate import check_run
from training.methods import build_method
from training.monitoring.hardware import hardware
from training.recipes.config import Recipe
from zoo.datasets.dataset import Dataset
from zoo.system.malloc import keep_freed_memory
from zoo.system.verbosity import quietly

_WARM_UP = 2  # steps
_FILES = 32  # different images


def measure(recipe: Recipe, device: str, *, side: int, steps: int = 4, name: str = "") -> Rate:
    """Return the rate of ``steps`` steps, with decoding, views, network and optimiser; no file is left.

    Args:
        side: of the made images, pixels.
        name: of what is measured; default: the recipe's.

    Raises:
        UserError: the recipe does not fit the device.
    """
    total = _WARM_UP + steps + 1  # the last step of a run saves a checkpoint, so it is never made
    optim = replace(recipe.optim, epochs=1, warmup_epochs=0)
    short = replace(recipe, optim=optim, monitor_epochs=0, checkpoint_steps=10**9)
    dataset = _made_images(total * optim.batch_size, side)
    check_run(short, dataset, device)
    require_fit(short, torch.device(device))
    with tempfile.TemporaryDirectory() as folder, explain_out_of_memory(), tf32(recipe.precision != "fp32"), quietly():
        if device == "cpu":
            keep_freed_memory()
        run = new_run(short, dataset, Path(folder), torch.device(device), build_method(short, len(dataset)))
        with closing(train_steps(run)) as made:
            for _ in islice(made, _WARM_UP):
                pass
            started = time.perf_counter()
            for _ in islice(made, steps):  # each ends with a loss on the host
                pass
            seconds = time.perf_counter() - started
    return Rate(
        hardware(torch.device(device)),
        torch.device(device).type,
        recipe.precision,
        name or recipe.name,
        operations(recipe),
        round(steps * optim.batch_size / seconds, 3),
    )


def _made_images(count: int, side: int) -> Dataset:
    """Return JPEG files in memory, as smooth as photographs and as slow to decode."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(_FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (max(2, side // 8), max(2, side // 8), 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return Dataset("made images", None, [], lambda i: files[i % _FILES], lambda i: f"image {i}", count)
