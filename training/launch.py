"""Starts runs and ablations from the command's arguments: recipe, overrides, data, device."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from training.ablations import run, tables
from training.ablations.result import AblationResult
from training.monitoring.loggers import LOGGERS
from training.recipes import table
from training.recipes.config import override
from training.sweeps.grid import candidates, parse, require_not_set
from training.sweeps.result import SweepResult
from zoo.datasets.dataset import decoded_once
from zoo.datasets.labelled import training_splits
from zoo.datasets.opening import open_training_data, require_there
from zoo.errors import UserError
from zoo.system.environment import whole_number
from zoo.system.verbosity import note


def launch(
    recipe: str,
    data: str,
    out: Path,
    *,
    overrides: list[str],
    device: str | None,
    resume: bool,
    in_memory: bool = False,
    loggers: Sequence[str] = (),
    changing: Collection[str] = (),
    init: str | None = None,
    label_column: str | None = None,
) -> Path | None:
    """Train and return the path of the last checkpoint; ``None`` on all ranks but the first.

    Under torchrun this process is one rank of the run, and resumes by itself after torchrun restarts it.

    Raises:
        UserError: the recipe, an override or the data is wrong; or as ``training.engine.loop.train``.
    """
    # Read the recipe and the data first, as their errors are cheap to find.
    config = override(table.find(recipe), overrides)
    if unknown := sorted(set(loggers) - set(LOGGERS)):
        raise UserError(f"no logger {unknown[0]!r}: one of {', '.join(LOGGERS)}")
    chosen = [LOGGERS[name] for name in dict.fromkeys(loggers)]
    require_there(data)
    from training.engine.validate import check_settings  # imports torch, which takes less than a large folder

    check_settings(config)
    dataset = open_training_data(data, label_column)
    if in_memory:
        dataset = decoded_once(dataset)

    # DDP warns about find_unused_parameters, which we need (training.distributed.collectives).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch

    from training.distributed import collectives
    from training.engine import checkpoint
    from training.engine.loop import train
    from training.engine.unread import unread_settings

    # Train as one rank of the group, and resume by itself after a restart by torchrun.
    with collectives.process_group(device or ("cuda" if torch.cuda.is_available() else "cpu")) as local_device:
        if collectives.rank() == 0:
            for field, reason in unread_settings(config, table.find(recipe)).items():
                if field != "optim.warmup_epochs":  # the loop says so, also of a recipe's own
                    note(f"--set {field} changes nothing: {reason}")
        resume = resume or (collectives.restarted() and checkpoint.load_last(out) is not None)
        path = train(
            config, dataset, out, device=local_device, resume=resume, loggers=chosen, changing=changing, init=init
        )
        return path if collectives.rank() == 0 else None


def launch_ablation(
    name: str,
    data: str,
    out: Path,
    *,
    seeds: int,
    full: bool,
    overrides: list[str],
    images: int | None,
    device: str | None,
    report: Callable[[str], None],
    label_column: str | None = None,
) -> AblationResult:
    """Run an ablation in the full or the small setting.

    Args:
        images: number of training images; ``None`` takes the setting's.
        report: receives a line for each cell.

    Raises:
        UserError: an override is wrong; or as ``training.ablations.run.ablate``.
    """
    setting = tables.full() if full else tables.small()
    byol, simclr, simsiam = (override(r, overrides) for r in (setting.byol, setting.simclr, setting.simsiam))
    setting = replace(setting, byol=byol, simclr=simclr, simsiam=simsiam, images=images or setting.images)

    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return run.ablate(
        name, data, out, seeds=seeds, setting=setting, device=device, report=report, label_column=label_column
    )


def launch_sweep(
    recipe: str,
    data: str,
    out: Path,
    *,
    over: list[str],
    overrides: list[str],
    halving: int | None,
    images: int | None,
    in_memory: bool,
    device: str | None,
    report: Callable[[str], None],
    label_column: str | None = None,
) -> SweepResult:
    """Run a sweep, see ``training.sweeps.run.sweep``.

    Args:
        images: number of training images, the first ones of a fixed permutation; ``None`` takes all.
        in_memory: decode all images once.

    Raises:
        UserError: a setting is wrong; or as ``training.sweeps.run.sweep``.
    """
    if whole_number("WORLD_SIZE", 1, least=1) > 1:
        raise UserError("a sweep trains one run after the other on one device: start it without torchrun")
    config = override(table.find(recipe), overrides)
    values = parse(over)
    require_not_set(config, values, overrides)
    settings = candidates(config, values)
    count = len(settings)
    require_there(data)
    from training.engine.validate import check_settings

    for one in settings:
        check_settings(override(config, one))
    train_data, held_out = training_splits(data, label_column)
    if images is not None and images < len(train_data):
        train_data = run.sample(train_data, images)
    if in_memory:
        train_data, held_out = decoded_once(train_data), decoded_once(held_out)

    import torch

    from training.engine.cost import expectation
    from training.engine.unread import without_result
    from training.sweeps.run import planned_images, sweep

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    for field, reason in without_result([override(config, one) for one in settings]).items():
        raise UserError(f"--over {field}: {reason}, so that all its values are one run")
    planned = planned_images(config, len(train_data), count, halving)
    note(f"{count} candidates; all runs together, {expectation(config, torch.device(device), images=planned)}")
    return sweep(config, train_data, held_out, out, over=values, halving=halving, device=device, report=report)
