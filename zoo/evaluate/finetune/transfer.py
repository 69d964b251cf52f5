"""``transfer``: transfer to other data sets, linear or fine-tuned ([B] section 4 and app. D; arXiv 2006.07733).

``linear`` (D.2): logistic regression by L-BFGS on frozen features, without augmentation, features not standardised. The
short side is resized to 224; the paper names no crop, the centre crop of 224 is SimCLR's. Weights whose preprocessing
crops first get the centre square, resized to 224. l2 is one of 45 values, chosen on the validation split; the
classifier is fitted again on train + validation.
``fine-tuned`` (D.3): all layers, 20 000 steps of 256 crops, SGD Nesterov; BN decay max(1 - 10/s, .9) with s the steps
of an epoch; learning rate and weight decay of a grid, chosen on the validation split; trained again on train +
validation. Test images have their short side resized to 256, then the centre crop of 224 is taken.

All constants are those of [B] app. D, which has no published code. A data set is one of ``zoo.datasets.transfer_sets``
by name, or a folder or parquet file with train, test and optionally val.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.datasets.labelled import LabelledImages, hold_out, open_splits
from zoo.datasets.transfer_sets import TRANSFER_SETS, open_transfer_set
from zoo.errors import UserError
from zoo.evaluate.errors import Diverged
from zoo.evaluate.features import cached_features
from zoo.evaluate.finetune.finetune import FinetuneRecipe, finetune, predict_logits
from zoo.evaluate.frozen import lbfgs
from zoo.evaluate.frozen.linear import L2
from zoo.evaluate.frozen.worst_classes import worst_classes
from zoo.evaluate.metrics import METRICS, score_with_interval
from zoo.evaluate.option_ranges import require_area, require_at_least
from zoo.evaluate.result import Result, data_summary
from zoo.inference.embedder import Embedder

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

MODES = ("linear", "fine-tuned")


@dataclass(frozen=True)
class TransferOptions:
    """The ``--set`` options of ``transfer``.

    Attributes:
        mode: ``linear`` or ``fine-tuned``.
        metric: of a folder or file; a data set known by name has its own.
        size: side of the crop in pixels; 0 means 224 ([B]) for a set known by name, else the size of the weights. The
            short side is ``size`` for ``linear``, and ``size * 256 / 224`` for ``fine-tuned``.
        l2, iterations, tolerance, standardise: for ``linear``; see ``zoo.evaluate.frozen.lbfgs``.
        grid: for ``fine-tuned``: published, small, or auto: published for a set known by name.
        lr, weight_decay, steps, batch: values of the grid where they are empty or 0.
        min_area: see ``zoo.evaluate.random_crops.RandomCrops``.
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

    def __post_init__(self) -> None:
        lbfgs.require_options(self.l2, self.iterations, self.tolerance)
        require_at_least(self, size=0, lr=0, steps=0, batch=0)
        if self.weight_decay != TransferOptions.weight_decay:
            require_at_least(self, weight_decay=0)
        require_area(self.min_area)


@dataclass(frozen=True)
class TransferGrid:
    """Learning rates and weight decays to choose from, and the length of a fine-tuning."""

    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    steps: int
    batch: int


GRIDS = {
    "published": TransferGrid(  # [B] app. D.3
        lr=tuple(float(f"{v:.4g}") for v in np.logspace(-4, -1, 7)),
        weight_decay=(0.0, *(float(f"{v:.4g}") for v in np.logspace(-6, -3, 7))),
        steps=20_000,
        batch=256,
    ),
    "small": TransferGrid(lr=(0.01, 0.1), weight_decay=(0.0,), steps=300, batch=64),  # ours
}


def evaluate(context: Context) -> Result:
    """Choose hyper-parameters on the validation split, train on train + validation, and score the test split."""
    # A known set brings its own splits and metric.
    options = context.options(TransferOptions())
    name = str(context.data)
    known = TRANSFER_SETS.get(name)
    splits = (
        open_transfer_set(name, context.root, context.seed)
        if known
        else open_splits(context.data, context.seed, context.label_column)
    )
    options = _with_grid(options, known is not None)
    metric = known.metric if known else options.metric
    if metric not in METRICS:
        raise UserError(f"--set metric: {metric!r} is none of {', '.join(METRICS)}")

    if metric == "11-point mAP" and splits.train.labels.ndim == 1:
        raise UserError(f"--set metric={metric} is for images with several labels, as voc2007: take another metric")

    # a validation split, held out of train where there is none
    train, val, test = splits.train, splits.val, splits.test
    rule = known.rule if known else splits.rule
    if val is None:
        kept, held = hold_out(train.labels, 0.1, context.seed)
        train, val = train.subset(kept, train.name), train.subset(held, f"{train.name}, held out")
        rule = f"{rule}; a tenth of each class of train held out as validation"

    # Fit in the chosen mode and score the test split once.
    embedder = _with_size(context.embedder, options.size, options.mode)
    fit = _linear if options.mode == "linear" else _finetuned
    logits, parameters = fit(context, embedder, train, val, test, options, metric)
    score, interval, method = score_with_interval(metric, logits, test.labels)
    return Result(
        metric,
        score,
        interval,
        {
            "mode": options.mode,
            **parameters,
            "split": rule,
            "size": embedder.preprocessing.input_size,
            "short_side": embedder.preprocessing.resize,
        },
        data_summary(
            context.data,
            len(train.classes),
            train=(len(train), train.sha256),
            val=(len(val), val.sha256),
            test=(len(test), test.sha256),
        ),
        interval=method,
        details={} if test.labels.ndim == 2 else worst_classes(logits.argmax(1), test.labels, train.classes),
    )


def _with_grid(options: TransferOptions, known: bool) -> TransferOptions:
    """Fill the options that were not given with the values of the grid."""
    if options.mode not in MODES:
        raise UserError(f"--set mode: {options.mode!r} is none of {', '.join(MODES)}")
    name = ("published" if known else "small") if options.grid == "auto" else options.grid
    if name not in GRIDS:
        raise UserError(f"--set grid: {name!r} is none of auto, {', '.join(GRIDS)}")
    # Options that the user gave win over the grid.
    grid = GRIDS[name]
    return replace(
        options,
        grid=name,
        size=options.size or (224 if known else 0),
        lr=grid.lr if options.lr == (0.0,) else options.lr,
        weight_decay=grid.weight_decay if options.weight_decay == (-1.0,) else options.weight_decay,
        steps=options.steps or grid.steps,
        batch=options.batch or grid.batch,
    )


def _with_size(embedder: Embedder, size: int, mode: str) -> Embedder:
    """Return the same network with a crop of ``size`` pixels and the short side of the mode; 0 changes nothing."""
    if not size:
        return embedder
    resize = size if mode == "linear" else round(size * 256 / 224)  # [B] app. D.2: 224; D.3: 256, then a crop of 224
    if (size, resize) == (embedder.preprocessing.input_size, embedder.preprocessing.resize):
        return embedder
    return replace(embedder, preprocessing=replace(embedder.preprocessing, input_size=size, resize=resize))


def _linear(
    context: Context,
    embedder: Embedder,
    train: LabelledImages,
    val: LabelledImages,
    test: LabelledImages,
    options: TransferOptions,
    metric: str,
) -> tuple[NDArray[np.float32], dict[str, object]]:
    """Return logits of the test images by logistic regression, and ``Result.parameters``."""
    # The features are computed once for all strengths.
    x, x_val, x_test = (torch.from_numpy(cached_features(embedder, s, s.sha256)) for s in (train, val, test))
    y, y_val = torch.from_numpy(train.labels), torch.from_numpy(val.labels)
    classes, standardise = len(train.classes), options.standardise
    # Choose the strength on the validation images.
    tried, best = {}, None
    path = lbfgs.LogisticRegression(x, y, classes, standardise=standardise).path(
        options.l2, iterations=options.iterations, tolerance=options.tolerance
    )
    for fit in path:
        tried[fit.l2] = round(METRICS[metric](fit.scores(x_val).float().numpy(), val.labels), 2)
        if best is None or tried[fit.l2] >= tried[best.l2]:  # the weakest l2 wins a tie
            best = fit
    assert best is not None
    # Fit again on train and validation together.
    both = torch.cat([x, x_val]), torch.cat([y, y_val])
    final = lbfgs.final_fit(*both, classes, best, standardise=standardise)
    return final.scores(x_test).float().numpy(), {
        "l2": best.l2,
        "chosen_by": "the validation split; refitted on train + validation",
        "validation_score_by_l2": {f"{l2:g}": tried[l2] for l2 in sorted(tried)},
        "objective": "mean loss + l2 / 2 |w|^2; scikit-learn's C = 1 / (N l2)",
        "standardised": standardise,
        "iterations": options.iterations,
        "tolerance": options.tolerance,
        "final_tolerance": lbfgs.FINAL_TOLERANCE,
    }


def _finetuned(
    context: Context,
    embedder: Embedder,
    train: LabelledImages,
    val: LabelledImages,
    test: LabelledImages,
    options: TransferOptions,
    metric: str,
) -> tuple[NDArray[np.float32], dict[str, object]]:
    """Return logits of the test images by fine-tuning, and ``Result.parameters``."""
    preprocessing, device = embedder.preprocessing, embedder.engine.device
    # Try each cell of the grid on the validation split.
    grid = list(product(options.lr, options.weight_decay))
    tried: dict[tuple[float, float], float | None] = {}  # by cell: two of them can be the same as text
    for lr, weight_decay in grid if len(grid) > 1 else ():
        recipe = _recipe(options, len(train), lr, weight_decay)
        cached = context.cached_part(preprocessing.to_json(), train.sha256, val.sha256, recipe.to_json(), metric)
        if (stored := cached.read()) is None:
            try:
                model = finetune(embedder, train, recipe, seed=context.seed)
                logits = predict_logits(model, val, preprocessing, device)
                stored = {"score": round(METRICS[metric](logits, val.labels), 2)}
            except Diverged:
                stored = {"score": None}
            cached.write(stored)
        tried[lr, weight_decay] = stored["score"]
    # A diverged cell never wins.
    lr, weight_decay = max(tried or grid[:1], key=lambda cell: -1.0 if (score := tried.get(cell)) is None else score)

    # Train again on train and validation together.
    both = train.followed_by(val)
    recipe = _recipe(options, len(both), lr, weight_decay)
    model = finetune(embedder, both, recipe, seed=context.seed)
    return predict_logits(model, test, preprocessing, device), {
        "lr": lr,
        "weight_decay": weight_decay,
        "chosen_by": "the validation split; trained again on train + validation",
        "validation_score": {f"lr {lr:g}, wd {decay:g}": score for (lr, decay), score in tried.items()},
        "grid": options.grid,
        **{k: v for k, v in recipe.to_json().items() if k not in ("lr", "weight_decay")},
    }


def _recipe(options: TransferOptions, images: int, lr: float, weight_decay: float) -> FinetuneRecipe:
    batch = min(options.batch, images)
    decay = max(1 - 10 / max(1, images / batch), 0.9)  # [B] app. D.3
    return FinetuneRecipe(options.steps, batch, lr, weight_decay / lr, 1 - decay, options.min_area)
