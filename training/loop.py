"""The training loop, top to bottom; no callbacks."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training import checkpoint, monitors
from training.build import build_method, build_optimiser, learning_rate, set_learning_rate
from training.config import Recipe, to_json
from training.data import Batch, batches
from training.hardware import hardware
from training.methods import Method
from training.schedules import target_momentum
from training.views import draw, render
from zoo import files
from zoo.datasets import Dataset
from zoo.errors import UserError
from zoo.progress import Progress

_LOG_STEPS = 20


@dataclass
class Run:
    """A run in progress: what a checkpoint holds, and where it goes."""

    recipe: Recipe
    dataset: Dataset
    folder: Path
    device: torch.device
    method: Method
    optimiser: torch.optim.Optimizer
    hardware: list[str]  # of each resumed part, without repetitions
    step: int = 0
    seconds: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.dataset) // self.recipe.optim.batch_size

    @property
    def total_steps(self) -> int:
        return self.recipe.optim.epochs * self.steps_per_epoch


def train(recipe: Recipe, dataset: Dataset, folder: Path, *, device: str, resume: bool = False) -> Path:
    """Trains ``recipe`` on ``dataset`` and returns the path of the last checkpoint.

    ``folder`` receives checkpoints and ``log.jsonl`` (a line every 20 steps and after every monitor). The same
    recipe, data, device and versions give the same bytes, undisturbed or resumed.

    Raises:
        UserError: the folder holds a run already (without ``resume``) or another one; the data are too few; the
            device is not there; the loss is not finite (the last checkpoint is then finite).
    """
    run = _prepare(recipe, dataset, folder, device, resume)
    config = recipe.optim
    with Progress("images") as progress:
        progress.start(run.total_steps * config.batch_size, run.step * config.batch_size)
        started, window = time.perf_counter() - run.seconds, (run.step, time.perf_counter())
        work = batches(dataset, batch_size=config.batch_size, steps=range(run.step, run.total_steps), seed=recipe.seed)
        for batch in work:
            lr = learning_rate(config, batch.step, run.steps_per_epoch)
            tau = target_momentum(batch.step, base=config.tau, total=run.total_steps)
            values = _step(run, batch, lr, tau)
            run.step, run.seconds = batch.step + 1, time.perf_counter() - started
            progress.advance(config.batch_size, epoch=batch.epoch + 1, loss=f"{values['loss']:.4f}")
            if run.step % _LOG_STEPS == 0:
                now = time.perf_counter()
                rate = (run.step - window[0]) * config.batch_size / (now - window[1])
                window = (run.step, now)
                _log(run, {**values, "lr": lr, "tau": tau, "images_per_second": round(rate, 1)})
            if recipe.monitor_epochs and run.step % (run.steps_per_epoch * recipe.monitor_epochs) == 0:
                _monitor(run, progress)
            if run.step % recipe.checkpoint_steps == 0 and run.step < run.total_steps:
                _save(run)
    return _save(run)


def _step(run: Run, batch: Batch, lr: float, tau: float) -> dict[str, float]:
    """One optimiser step; returns what is worth logging."""
    v1, v2 = _views(run, batch)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.recipe.precision == "bf16"):
        losses = run.method.losses(v1, v2)
    loss = torch.stack(list(losses.values())).sum()
    value = loss.item()
    if not isfinite(value):
        raise UserError(
            f"the loss is {value} at step {batch.step} (epoch {batch.epoch + 1}): the last checkpoint is good; "
            "lower optim.lr or look at the images of that batch"
        )
    run.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    set_learning_rate(run.optimiser, run.recipe.optim, lr)
    run.optimiser.step()
    run.method.after_step(tau)
    return {name: round(v.item(), 6) for name, v in losses.items()}


def _views(run: Run, batch: Batch) -> list[Tensor]:
    """Both views of a batch, on the device; each sample's parameters come from (seed, epoch, index)."""
    recipe = run.recipe
    images = [image.to(run.device, non_blocking=True) for image in batch.images]
    heights, widths = (np.array([i.shape[d] for i in images], np.int64) for d in (0, 1))
    result = []
    for stream, view in enumerate((recipe.views.first, recipe.views.second), start=1):
        drawn = draw(
            view,
            recipe.views.operations,
            heights,
            widths,
            batch.indices,
            seed=recipe.seed,
            epoch=batch.epoch,
            stream=stream,
        )
        result.append(render(images, drawn, recipe.views, view))
    return result


def _prepare(recipe: Recipe, dataset: Dataset, folder: Path, device: str, resume: bool) -> Run:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("no CUDA device here: use --device cpu")
    if len(dataset) < recipe.optim.batch_size:
        raise UserError(f"{dataset.name} has {len(dataset)} images, fewer than a batch of {recipe.optim.batch_size}")
    target = torch.device(device)
    method = build_method(recipe)
    method.to(target).to(memory_format=torch.channels_last).train()
    run = Run(recipe, dataset, folder, target, method, build_optimiser(method, recipe.optim), [hardware(target)])
    state = checkpoint.load_last(folder)
    if state is not None and not resume:
        raise UserError(f"{folder} holds a run (step {state['step']}): add --resume or choose another --out")
    if state is None:
        if resume:
            raise UserError(f"{folder} holds no run to resume: leave --resume out")
        files.make_folder(folder)
        return run
    _require_same(run, state)
    method.load_state_dict(state["method"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.step, run.seconds = state["step"], state["seconds"]
    run.hardware = list(dict.fromkeys([*state["hardware"], *run.hardware]))
    _trim_log(folder / "log.jsonl", run.step)
    return run


def _require_same(run: Run, state: dict[str, Any]) -> None:
    ours, theirs = _identity(run), state["recipe"] | {"data": state["data"]}
    different = [k for k in ours if ours[k] != theirs.get(k)]
    if different:
        key = different[0]
        raise UserError(f"{run.folder} holds another run: its {key} is {theirs.get(key)}, this one's is {ours[key]}")


def _identity(run: Run) -> dict[str, Any]:
    return to_json(run.recipe) | {"data": {"name": run.dataset.name, "images": len(run.dataset)}}


def _save(run: Run) -> Path:
    state = {
        "recipe": to_json(run.recipe),
        "data": _identity(run)["data"],
        "step": run.step,
        "total_steps": run.total_steps,
        "seconds": run.seconds,
        "hardware": run.hardware,
        "method": run.method.state_dict(),
        "optimiser": run.optimiser.state_dict(),
    }
    return checkpoint.save(run.folder, run.step, state)


def _monitor(run: Run, progress: Progress) -> None:
    """Logs and says how the network does; a collapse is said in so many words."""
    health = monitors.examine(run.method, run.dataset, size=run.recipe.views.size, device=run.device)
    epoch = run.step // run.steps_per_epoch
    values = {"epoch": epoch, "spread": round(health.spread, 4)}
    _log(run, values if health.knn is None else {**values, "knn": round(health.knn, 2)})
    accuracy = "" if health.knn is None else f", kNN {health.knn:.1f} %"
    progress.say(f"epoch {epoch}: spread of the outputs {health.spread:.2f}{accuracy}")
    if health.spread < monitors.COLLAPSED:
        progress.say("the outputs have collapsed to a constant: no image can be told from another, stop the run")


def _log(run: Run, values: dict[str, Any]) -> None:
    line = {"step": run.step, "seconds": round(run.seconds, 1), **values}
    files.append_line(run.folder / "log.jsonl", json.dumps(line))


def _trim_log(path: Path, step: int) -> None:
    """Drops lines after ``step``: the steps a killed run logged but did not save are made again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        files.atomic_write_text(path, "".join(line + "\n" for line in lines))
