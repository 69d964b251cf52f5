"""``zoo-train sweep``: train every candidate of a rung with the same budget, rank them by kNN on held-out images.

A trial is a run in a folder of its own. A finished one has a ``result.json`` and is not run again; an interrupted one
resumes from its checkpoint, so the same command continues a sweep that was killed. Every rung trains its candidates
anew, because the learning rate of a run follows its whole length: a run that is cut off has not reached the low rates
that its score depends on.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import torch

from training.data.sampler import EpochSampler
from training.engine import checkpoint
from training.engine.loop import train
from training.engine.memory import require_fit
from training.engine.validate import check_run
from training.methods import build_method
from training.monitoring.collapse import collapsed, effective_rank, held_out_knn, least_spread, output_spread, vanished
from training.monitoring.hardware import hardware
from training.recipes.config import Recipe, differences, from_json, override, to_json
from training.sweeps.grid import candidates, kept, rung_epochs
from training.sweeps.result import RankedTrial, Rung, SweepResult, TrialKey, TrialResult
from training.sweeps.shorten import shortened
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.evaluate.result import wilson_interval
from zoo.system import atomic_files
from zoo.system.file_locks import locked
from zoo.system.json_reader import BadJson, fields, number, read_json

_FILE, _LOCK = "sweep.json", "sweep.lock"
_RANK_ROWS = 256
_LONGEST = 120  # characters of a folder's name, beside a hash


@dataclass(frozen=True)
class _Trial:
    settings: list[str]
    recipe: Recipe
    folder: Path


def sweep(
    recipe: Recipe,
    train_data: Dataset,
    held_out: Dataset,
    out: Path,
    *,
    over: dict[str, list[str]],
    halving: int | None,
    device: str,
    report: Callable[[str], None],
) -> SweepResult:
    """Run the missing trials of a sweep and write ``sweep.json`` into ``out``.

    Args:
        recipe: what all candidates have in common; its epochs are those of the last rung.
        held_out: labelled images that no candidate is trained on; their neighbours are sought in ``train_data``.
        over: values of each field, see ``training.sweeps.grid``.
        halving: keep one candidate in so many after each rung; ``None`` trains the whole grid at full length.
        report: receives a line for each trial.

    Returns:
        The content of ``sweep.json``.

    Raises:
        UserError: a setting is wrong, labels are missing, or ``out`` holds trials of another recipe or other data.
    """
    held_out.required_labels, train_data.required_labels  # noqa: B018
    alive = candidates(recipe, over)
    lengths = [recipe.optim.epochs] if halving is None else rung_epochs(recipe.optim.epochs, len(alive), halving)
    data: list[list[str | int]] = [[d.name, len(d), d.content()] for d in (train_data, held_out)]
    # Refuse a wrong candidate before the first one is trained.
    for settings in alive:
        one = _of_length(override(recipe, settings), lengths[0])
        check_run(one, train_data, device)
        require_fit(one, torch.device(device))
    atomic_files.make_folder(out)
    with locked(out / _LOCK) as acquired:
        if not acquired:
            raise UserError(f"another process runs a sweep in {out}: wait until it ends or choose another --out")
        rungs: list[Rung] = []
        for place, epochs in enumerate(lengths):
            results = []
            for done, settings in enumerate(alive):
                one = _of_length(override(recipe, settings), epochs)
                trial = _Trial(settings, one, out / f"{epochs:04d}ep.{_file_name(settings)}")
                results.append((trial, _result(trial, train_data, held_out, data, device)))
                report(_line(results[-1], f"{epochs} epochs, {done + 1}/{len(alive)}"))
            keep = kept(len(alive), halving) if halving and place + 1 < len(lengths) else len(alive)
            rungs.append(_ranked(results, epochs, keep, is_last=place + 1 == len(lengths)))
            alive = [trial["settings"] for trial in rungs[-1]["trials"][:keep]]
        first, *others = rungs[-1]["trials"]
        result: SweepResult = {
            "recipe": recipe.name,
            "over": over,
            "scheme": "grid" if halving is None else f"successive halving, 1 in {halving} kept",
            "score": "kNN on held-out images, k = 20, t = .07",
            "data": data,
            "rungs": rungs,
            "best": first["settings"],
            "tied": [trial["settings"] for trial in others if trial["interval"][1] >= first["interval"][0]],
            "versions": {p: version(p) for p in ("torch", "timm")} | {"python": platform.python_version()},
        }
        atomic_files.atomic_write_text(out / _FILE, json.dumps(result, indent=1) + "\n")
    return result


def _of_length(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe of a run of ``epochs`` epochs; the last checkpoint alone is kept."""
    return replace(shortened(recipe, epochs), keep_checkpoints=1)


def _file_name(settings: list[str]) -> str:
    """Return the settings as a folder's name: other settings have another one, whatever is added to the sweep."""
    text = ",".join(settings)
    safe = re.sub(r"[^\w.=,+-]", "_", text)
    return (
        safe
        if safe == text and len(text) <= _LONGEST
        else f"{safe[:_LONGEST]}.{sha256(text.encode()).hexdigest()[:12]}"
    )


def _ranked(results: list[tuple[_Trial, TrialResult]], epochs: int, keep: int, *, is_last: bool) -> Rung:
    """Rank by kNN, best first; of equal ones the first candidate."""
    order = sorted(results, key=lambda pair: -pair[1]["knn"])
    trials: list[RankedTrial] = [
        {
            "settings": trial.settings,
            "folder": trial.folder.name,
            "knn": result["knn"],
            "interval": result["interval"],
            "collapsed": result["collapsed"],
            "images_seen": result["images_seen"],
            "minutes": result["minutes"],
            "kept": place < keep and not is_last,
        }
        for place, (trial, result) in enumerate(order)
    ]
    return {"epochs": epochs, "trials": trials}


def _line(pair: tuple[_Trial, TrialResult], where: str) -> str:
    trial, result = pair
    low, high = result["interval"]
    fate = ", collapsed" if result["collapsed"] else ""
    return f"{where}: {', '.join(trial.settings)}: kNN {result['knn']:.1f} % ({low:.1f} to {high:.1f}){fate}"


def _result(
    trial: _Trial, train_data: Dataset, held_out: Dataset, data: list[list[str | int]], device: str
) -> TrialResult:
    """Train and score one trial, or read its finished result."""
    key: TrialKey = {"recipe": json.loads(json.dumps(to_json(trial.recipe))), "data": data}
    path = trial.folder / "result.json"
    if path.exists():
        return _finished(path, key)
    # Train it, or continue where an earlier call was stopped.
    atomic_files.make_folder(trial.folder)
    interrupted = checkpoint.load_last(trial.folder)
    if interrupted is not None and any(differences(trial.recipe, from_json(interrupted["recipe"]))):
        raise _of_another_sweep(trial.folder)
    resume = interrupted is not None
    state = checkpoint.read(train(trial.recipe, train_data, trial.folder, device=device, resume=resume))
    method = build_method(trial.recipe, len(train_data))
    checkpoint.load_weights(method, state, trial.folder)
    method.to(device)
    correct, outputs = held_out_knn(method, train_data, held_out, views=trial.recipe.views, device=torch.device(device))
    score, interval = wilson_interval(correct)
    spread, rank = output_spread(outputs), effective_rank(outputs[:_RANK_ROWS])
    result: TrialResult = {
        **key,
        "knn": round(score, 2),
        "interval": [round(bound, 2) for bound in interval],
        "spread": round(spread, 4),
        "effective_rank": round(rank, 2),
        "collapsed": collapsed(spread, rank, least_spread(method)) or vanished(method, outputs),
        "images_seen": state["step"] * trial.recipe.optim.batch_size,
        "minutes": round(state["seconds"] / 60, 2),
        "hardware": hardware(torch.device(device)),
    }
    atomic_files.atomic_write_text(path, json.dumps(result, indent=1) + "\n")
    return result


def _finished(path: Path, key: TrialKey) -> TrialResult:
    try:
        found = fields(read_json(path), *TrialResult.__annotations__)
        number(found["knn"], 0, 100)
        finished: TrialResult = json.loads(path.read_text())
        same = all(finished[field] == key[field] for field in ("recipe", "data"))
    except (BadJson, OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove {path.parent}, and its candidate is trained again"
        ) from None
    if not same:
        raise _of_another_sweep(path.parent)
    return finished


def _of_another_sweep(folder: Path) -> UserError:
    return UserError(f"{folder} holds a trial of another recipe or other images: choose another --out")


def planned_images(recipe: Recipe, images: int, count: int, halving: int | None) -> int:
    """Return how many images a whole sweep trains on, all candidates and epochs together."""
    lengths = [recipe.optim.epochs] if halving is None else rung_epochs(recipe.optim.epochs, count, halving)
    sampler, total = EpochSampler(images, recipe.optim.batch_size, recipe.optim.drop_last), 0
    for epochs in lengths:
        total += count * sampler.steps(epochs) * recipe.optim.batch_size
        count = kept(count, halving) if halving else count
    return total
