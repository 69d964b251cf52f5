"""From the command's words to a run: recipe, overrides, data, device."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.ablations import run, tables
from training.recipes import table
from training.recipes.config import override
from zoo.datasets.dataset import decoded_once, open_training_data


def launch(
    recipe: str,
    data: str,
    out: Path,
    *,
    overrides: list[str],
    device: str | None,
    resume: bool,
    in_memory: bool = False,
    tensorboard: bool = False,
) -> Path | None:
    """Trains and returns the last checkpoint, ``None`` on all ranks but the first.

    Raises what ``training.engine.loop.train`` raises.

    Under torchrun this process is one rank of the run; started again by it, it resumes unasked.
    """
    config = override(table.find(recipe), overrides)
    dataset = open_training_data(data)
    if in_memory:
        dataset = decoded_once(dataset)

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of an option we mean (distributed.wrap)
    import torch  # after the cheap errors

    from training.distributed import collectives
    from training.engine import checkpoint
    from training.engine.loop import train

    with collectives.ranks(device or ("cuda" if torch.cuda.is_available() else "cpu")) as own_device:
        resume = resume or (collectives.restarted() and checkpoint.load_last(out) is not None)
        path = train(config, dataset, out, device=own_device, resume=resume, tensorboard=tensorboard)
        return path if collectives.rank() == 0 else None


def launch_ablation(
    name: str,
    data: Path,
    out: Path,
    *,
    seeds: int,
    full: bool,
    overrides: list[str],
    images: int | None,
    device: str | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The ablation's result; see ``training.ablations.run.ablate`` for what it holds and raises."""
    setting = tables.full() if full else tables.small()
    byol, simclr, simsiam = (override(r, overrides) for r in (setting.byol, setting.simclr, setting.simsiam))
    setting = replace(setting, byol=byol, simclr=simclr, simsiam=simsiam, images=images or setting.images)

    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return run.ablate(name, data, out, seeds=seeds, setting=setting, device=device, say=say)
