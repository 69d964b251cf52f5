"""From the command's words to a run: recipe, overrides, data, device."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from training import ablation_tables, ablations, recipes
from training.config import override
from zoo.datasets import decoded_once, open_training_data


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

    Raises what ``training.loop.train`` raises.

    Under torchrun this process is one rank of the run; started again by it, it resumes unasked.
    """
    config = override(recipes.find(recipe), overrides)
    dataset = open_training_data(data)
    if in_memory:
        dataset = decoded_once(dataset)

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of an option we mean (distributed.wrap)
    import torch  # after the cheap errors

    from training import checkpoint, distributed
    from training.loop import train

    with distributed.ranks(device or ("cuda" if torch.cuda.is_available() else "cpu")) as own_device:
        resume = resume or (distributed.restarted() and checkpoint.load_last(out) is not None)
        path = train(config, dataset, out, device=own_device, resume=resume, tensorboard=tensorboard)
        return path if distributed.rank() == 0 else None


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
    """The ablation's result; see ``training.ablations.ablate`` for what it holds and raises."""
    setting = ablation_tables.full() if full else ablation_tables.small()
    byol, simclr, simsiam = (override(r, overrides) for r in (setting.byol, setting.simclr, setting.simsiam))
    setting = replace(setting, byol=byol, simclr=simclr, simsiam=simsiam, images=images or setting.images)

    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return ablations.ablate(name, data, out, seeds=seeds, setting=setting, device=device, say=say)
