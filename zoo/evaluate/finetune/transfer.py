"""Transfer to other data sets, linear or fine-tuned ([B] section 4 and app. D.1).

``linear``: logistic regression by L-BFGS on frozen features of the short side resized to 224 and a centre crop of 224
(of weights whose preprocessing crops first: the centre square, resized to 224), without augmentation, features as they
are; l2 of 45 values chosen on the validation split, refit on train + validation.
``fine-tuned``: all layers, 20 000 steps of 256 crops, SGD Nesterov; BN decay max(1 - 10/s, .9) with s the steps of an
epoch; learning rate and weight decay of a grid chosen on the validation split, trained again on train + validation.

A data set is one of ``zoo.datasets.transfer_sets`` by name, or a folder or parquet with train, test and maybe val.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.datasets.labelled import Labelled, Splits, hold_out, open_splits
from zoo.datasets.transfer_sets import SETS, open_named
from zoo.errors import UserError
from zoo.evaluate.features import features
from zoo.evaluate.finetune.finetune import Diverged, Recipe, finetune, scores
from zoo.evaluate.frozen import lbfgs
from zoo.evaluate.frozen.linear import L2
from zoo.evaluate.frozen.worst_classes import worst_classes
from zoo.evaluate.metrics import METRICS, with_interval
from zoo.evaluate.result import Result, describe_data
from zoo.inference.embedder import Embedder

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

MODES = ("linear", "fine-tuned")
GRIDS: dict[str, dict[str, Any]] = {
    "published": {  # [B] app. D.1
        "lr": tuple(float(f"{v:.4g}") for v in np.logspace(-4, -1, 7)),
        "weight_decay": (0.0, *(float(f"{v:.4g}") for v in np.logspace(-6, -3, 7))),
        "steps": 20_000,
        "batch": 256,
    },
    "small": {"lr": (0.01, 0.1), "weight_decay": (0.0,), "steps": 300, "batch": 64},  # no paper's
}


@dataclass(frozen=True)
class Options:
    """``--set`` of ``transfer``.

    Attributes:
        mode: ``linear`` or ``fine-tuned``.
        metric: of a folder; a data set known by name has its own.
        size: side of the crop and of the short side; 0 takes 224 ([B]) for a named set, and what the weights were
            trained for otherwise.
        l2, iterations, tolerance, standardise: of ``linear``.
        grid: of ``fine-tuned``: published, small, or auto: published for a set known by name.
        lr, weight_decay, steps, batch: of the grid where they are empty or 0.
    """

    mode: str = "linear"
    metric: str = "top-1"
    size: int = 0
    l2: tuple[float, ...] = L2
    iterations: int = lbfgs.ITERATIONS
    tolerance: float = lbfgs.TOLERANCE
    standardise: bool = False
    grid: str = "auto"
    lr: tuple[float, ...] = (0.0,)
    weight_decay: tuple[float, ...] = (-1.0,)
    steps: int = 0
    batch: int = 0
    min_area: float = 0.08


def evaluate(context: Context) -> Result:
    """The data set's metric on its test split; see the module."""
    options = context.options(Options())
    known = SETS.get(str(context.data))
    splits = (
        open_named(str(context.data), context.root, context.seed) if known else open_splits(context.data, context.seed)
    )
    options = _filled(options, known is not None)
    metric = known.metric if known else options.metric
    if metric not in METRICS:
        raise UserError(f"--set metric: {metric!r} is none of {', '.join(METRICS)}")
    embedder = _resized(context.embedder, options.size)
    rule = known.rule if known else splits.rule
    if splits.val is None:
        kept, held = hold_out(splits.train.labels, 0.1, context.seed)
        train = splits.train
        splits = Splits(train.part(kept, train.name), train.part(held, f"{train.name}, held out"), splits.test)
        rule = f"{rule}; a tenth of each class of train held out as validation"
    run = _linear if options.mode == "linear" else _finetuned
    logits, parameters = run(context, embedder, splits, options, metric)
    truth = splits.test.labels
    score, interval, how = with_interval(metric, logits, truth)
    details = {} if truth.ndim == 2 else worst_classes(logits.argmax(1), truth, splits.train.classes)
    assert splits.val is not None
    return Result(
        metric,
        score,
        interval,
        {"mode": options.mode, **parameters, "split": rule, "size": embedder.preprocessing.input_size},
        describe_data(
            context.data,
            len(splits.train.classes),
            train=(len(splits.train), splits.train.sha256),
            val=(len(splits.val), splits.val.sha256),
            test=(len(splits.test), splits.test.sha256),
        ),
        interval=how,
        details=details,
    )


def _filled(options: Options, known: bool) -> Options:
    if options.mode not in MODES:
        raise UserError(f"--set mode: {options.mode!r} is none of {', '.join(MODES)}")
    name = ("published" if known else "small") if options.grid == "auto" else options.grid
    if name not in GRIDS:
        raise UserError(f"--set grid: {name!r} is none of auto, {', '.join(GRIDS)}")
    grid, empty = GRIDS[name], {"lr": (0.0,), "weight_decay": (-1.0,), "steps": 0, "batch": 0}
    given = {k: getattr(options, k) for k in empty}
    filled = {k: grid[k] if v == empty[k] else v for k, v in given.items()}
    return replace(options, grid=name, size=options.size or (224 if known else 0), **filled)


def _resized(embedder: Embedder, size: int) -> Embedder:
    """The same network at another resolution: short side and crop of ``size`` pixels; 0 leaves it."""
    if not size or (size, size) == (embedder.preprocessing.input_size, embedder.preprocessing.resize):
        return embedder
    return replace(embedder, preprocessing=replace(embedder.preprocessing, input_size=size, resize=size))


def _linear(
    context: Context, embedder: Embedder, splits: Splits, options: Options, metric: str
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    assert splits.val is not None
    x, v, t = (torch.from_numpy(features(embedder, s, s.sha256)) for s in (splits.train, splits.val, splits.test))
    y, judge = (torch.from_numpy(s.labels) for s in (splits.train, splits.val))
    limits: dict[str, Any] = {"iterations": options.iterations, "tolerance": options.tolerance}
    classes, tried, best = len(splits.train.classes), {}, None
    problem = lbfgs.Problem(x, y, classes, standardise=options.standardise)
    for fit in problem.path(options.l2, **limits):
        tried[fit.l2] = round(METRICS[metric](fit.scores(v).float().numpy(), judge.numpy()), 2)
        if best is None or tried[fit.l2] >= tried[best.l2]:
            best = fit
    assert best is not None
    final = lbfgs.final_fit(torch.cat([x, v]), torch.cat([y, judge]), classes, best, standardise=options.standardise)
    parameters = {
        "l2": best.l2,
        "chosen_by": "the validation split; refitted on train + validation",
        "validation_score_by_l2": {f"{l2:g}": tried[l2] for l2 in sorted(tried)},
        "objective": "mean loss + l2 / 2 |w|^2; scikit-learn's C = 1 / (N l2)",
        "standardised": options.standardise,
        **limits,
        "final_tolerance": lbfgs.FINAL_TOLERANCE,
    }
    return final.scores(t).float().numpy(), parameters


def _finetuned(
    context: Context, embedder: Embedder, splits: Splits, options: Options, metric: str
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    assert splits.val is not None
    cells = list(product(options.lr, options.weight_decay))
    tried: dict[str, float | None] = {}
    for lr, weight_decay in cells if len(cells) > 1 else ():
        recipe = _recipe(options, len(splits.train), lr, weight_decay)
        cell = context.cell(embedder.preprocessing.to_json(), splits.train.sha256, recipe.to_json(), metric)
        if (kept := cell.read()) is None:
            kept = {"score": _validated(embedder, splits.train, splits.val, recipe, metric, context.seed)}
            cell.write(kept)
        tried[f"lr {lr:g}, wd {weight_decay:g}"] = kept["score"]
    best = max(tried, key=lambda c: -1.0 if tried[c] is None else float(tried[c] or 0)) if tried else None
    lr, weight_decay = cells[list(tried).index(best)] if best else cells[0]
    whole = splits.train.followed_by(splits.val)
    recipe = _recipe(options, len(whole), lr, weight_decay)
    model = finetune(embedder, whole, recipe, seed=context.seed)
    parameters = {
        "lr": lr,
        "weight_decay": weight_decay,
        "chosen_by": "the validation split; trained again on train + validation",
        "validation_score": tried,
        "grid": options.grid,
        **{k: v for k, v in recipe.to_json().items() if k not in ("lr", "weight_decay")},
    }
    return scores(model, splits.test, embedder.preprocessing, embedder.engine.device), parameters


def _recipe(options: Options, images: int, lr: float, weight_decay: float) -> Recipe:
    batch = min(options.batch, images)
    decay = max(1 - 10 / max(1, images / batch), 0.9)  # [B] app. D.1
    return Recipe(options.steps, batch, lr, weight_decay / lr, 1 - decay, options.min_area)


def _validated(
    embedder: Embedder, train: Labelled, val: Labelled, recipe: Recipe, metric: str, seed: int
) -> float | None:
    try:
        model = finetune(embedder, train, recipe, seed=seed)
        logits = scores(model, val, embedder.preprocessing, embedder.engine.device)
    except Diverged:
        return None
    return round(METRICS[metric](logits, val.labels), 2)
