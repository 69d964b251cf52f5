"""The training loop, top to bottom; no callbacks."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from training.distributed import collectives
from training.engine import checkpoint
from training.engine.oom import enough_memory
from training.engine.signals import Stop
from training.engine.state import Run, prepare, save
from training.engine.step import optimiser_step
from training.monitoring import collapse
from training.monitoring.metrics_log import Journal
from training.recipes.config import Recipe
from zoo.datasets.dataset import Dataset
from zoo.system.malloc import keep_freed_memory
from zoo.system.progress import Progress

_LOG_STEPS = 20


def train(
    recipe: Recipe, dataset: Dataset, folder: Path, *, device: str, resume: bool = False, tensorboard: bool = False
) -> Path:
    """Trains ``recipe`` on ``dataset`` and returns the path of the last checkpoint; on every rank of the run.

    ``folder`` receives checkpoints and ``log.jsonl`` (a line for the hardware of each part, every 20 steps, and after
    every monitor), and with ``tensorboard`` the same numbers for TensorBoard. The same recipe, data, device, ranks
    and versions give the same bytes, undisturbed or resumed.

    Raises:
        UserError: the folder holds a run already (without ``resume``) or another one; the data are too few or too
            many of them unreadable; the device is not there; a loss or gradient is not finite (the last checkpoint is
            then finite).
        KeyboardInterrupt: SIGTERM or Ctrl-C on some rank; the step in progress is done and saved.
    """
    with enough_memory(), prepare(recipe, dataset, folder, device, resume) as run:
        if run.device.type == "cpu":
            keep_freed_memory()
        return _train(run, tensorboard)


def _train(run: Run, tensorboard: bool) -> Path:
    recipe = run.recipe
    size, ranks, leads = recipe.optim.batch_size, collectives.world_size(), collectives.rank() == 0
    journal = Journal(run.folder if leads else None, step=run.step, tensorboard=tensorboard)
    with Stop() as stop, journal, Progress("images", stream=None if leads else io.StringIO()) as progress:
        progress.start(run.total_steps * size, run.step * size)
        if recipe.optim.schedule in ("step", "swav") and recipe.optim.warmup_epochs >= recipe.optim.epochs:
            progress.say(
                f"the learning rate only rises: optim.warmup_epochs={recipe.optim.warmup_epochs:g} is all epochs"
            )
        _log(run, journal, {"hardware": run.hardware[-1], "ranks": ranks, "precision": recipe.precision})
        started, window = time.perf_counter() - run.seconds, (run.step, time.perf_counter())
        for batch in run.batches(range(run.step, run.total_steps)):
            for name, reason in batch.unreadable.items():
                progress.say(f"{name} cannot be read ({reason}): another image takes its place")
                _log(run, journal, {"unreadable": name, "reason": reason})
            values = optimiser_step(run, batch)
            run.step, run.seconds = batch.step + 1, time.perf_counter() - started
            progress.advance(size, epoch=run.epochs.before(batch.step) + 1, loss=f"{values['loss']:.4f}")
            if seen := run.watch.after_step(run.step, batch.labels):
                _log(run, journal, seen)
                if (complaint := run.watch.complaint()) is not None:
                    progress.say(f"step {run.step}: {complaint}")
                    _log(run, journal, {"collapse": complaint})
            if run.step % _LOG_STEPS == 0 or run.step == run.total_steps:
                now = time.perf_counter()
                rate = (run.step - window[0]) * size / (now - window[1])
                window = (run.step, now)
                if run.watch.probe is not None and (accuracy := run.watch.probe.accuracy()) is not None:
                    values["probe"] = round(accuracy, 2)
                _log(run, journal, {**values, "images_per_second": round(rate, 1)})
            if (over := _epochs_over(run)) is not None:
                if leads:
                    _monitor(run, over, journal, progress)
                collectives.barrier()
            stopping = stop.asked()
            if stopping or run.step % recipe.checkpoint_steps == 0 or run.step == run.total_steps:
                save(run)
                collectives.barrier()  # nobody leaves, or looks for it, before it is there
            if stopping and run.step < run.total_steps:
                raise KeyboardInterrupt
    return run.folder / checkpoint.file_name(run.step)


def _epochs_over(run: Run) -> int | None:
    """How many are over, where the last step makes the monitors due: after every so many of them, and at the end."""
    every = run.recipe.monitor_epochs
    if every and run.step == run.total_steps:
        return run.recipe.optim.epochs
    over = run.epochs.before(run.step)
    return over if every and over // every > run.epochs.before(run.step - 1) // every else None


def _monitor(run: Run, epoch: int, journal: Journal, progress: Progress) -> None:
    """Logs and says how the network does; a collapse is said in so many words."""
    health = collapse.examine(run.method, run.dataset, views=run.recipe.views, device=run.device)
    values = {"epoch": epoch, "spread": round(health.spread, 4), "effective_rank": round(health.effective_rank, 2)}
    _log(run, journal, values if health.knn is None else {**values, "knn": round(health.knn, 2)})
    accuracy = "" if health.knn is None else f", kNN {health.knn:.1f} %"
    progress.say(
        f"epoch {epoch}: spread of the outputs {health.spread:.2f}, rank {health.effective_rank:.1f}{accuracy}"
    )
    if collapse.collapsed(health.spread, health.effective_rank):
        progress.say(collapse.COMPLAINT)


def _log(run: Run, journal: Journal, values: dict[str, Any]) -> None:
    journal.write(run.step, {"seconds": round(run.seconds, 1), **values})
