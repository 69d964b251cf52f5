"""``semi-supervised``: fine-tuning with 1 % and 10 % of the labels ([B] section 4 and app. C.1; arXiv 2006.07733).

All layers train, BN too: SGD Nesterov, no weight decay, B = 1024, learning rate and epochs from the grid of [B] app.
C.1. Where the training images are as many as ImageNet's, they are chosen on 10 009 of them outside the labelled part,
the size of the paper's "local validation set"; else on a fifth of the labelled images. The network is then fine-tuned
on all labelled images from several seeds: five here, [B] does not state a number.

The labelled images are those of the lists ``1percent.txt`` and ``10percent.txt`` of google-research/simclr
(``imagenet_subsets``; a file name per line, as n01440764_10026.JPEG) if ``--subset-files`` gives their folder, else a
part of each class, drawn anew for each seed. Table 2 of [B] is of SimCLR's lists, figure 4 of draws of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from zoo.datasets.labelled import Ints, LabelledImages, LabelledSplits, hold_out, open_splits, stratified_split
from zoo.errors import UserError
from zoo.evaluate.errors import Diverged
from zoo.evaluate.finetune.finetune import FinetuneRecipe, finetune, predict_logits
from zoo.evaluate.metrics import top_k
from zoo.evaluate.option_ranges import require_area, require_at_least
from zoo.evaluate.random_crops import epoch_batches
from zoo.evaluate.result import FractionJson, Result, data_summary, mean_over_seeds, wilson_interval

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

LARGE = 100_000  # training images from which "auto" takes the published grid
HELD_OUT = 10_009  # [B] app. C.1; in data sets of more than ten times that


@dataclass(frozen=True)
class SemiSupervisedOptions:
    """The ``--set`` options of ``semi-supervised``.

    Attributes:
        percent: fractions of the labels; the first gives the score, all are in ``metrics``.
        grid: ``published``, ``small``, or ``auto``: published from ``LARGE`` training images on.
        lr, epochs, batch: values of the grid where they are empty or 0.
        seeds: number of fine-tunings that are averaged; [B] does not state a number for table 2.
        min_area: see ``zoo.evaluate.random_crops.RandomCrops``.
    """

    percent: tuple[float, ...] = (1.0, 10.0)
    grid: str = "auto"
    lr: tuple[float, ...] = (0.0,)
    epochs: tuple[int, ...] = (0,)
    batch: int = 0
    seeds: int = 5
    min_area: float = 0.08

    def __post_init__(self) -> None:
        require_at_least(self, lr=0, epochs=0, batch=0)
        require_area(self.min_area)


@dataclass(frozen=True)
class SemiSupervisedGrid:
    """Learning rates and epochs to choose from, and the batch size."""

    lr: tuple[float, ...]
    epochs: tuple[int, ...]
    batch: int


GRIDS = {
    "published": SemiSupervisedGrid((0.01, 0.02, 0.05, 0.1, 0.005), (30, 50), 1024),  # [B] app. C.1
    "small": SemiSupervisedGrid((0.02, 0.1), (30,), 64),  # ours, for data sets of a few thousand images
}


class Accuracies(TypedDict):
    """Accuracy of one fine-tuning in percent; ``top5`` is ``None`` with five classes or fewer."""

    top1: float
    top5: float | None


def evaluate(context: Context) -> Result:
    """Return the mean top-1 over the seeds at the first fraction of the labels."""
    options = context.options(SemiSupervisedOptions())
    splits = open_splits(context.data, context.seed, context.label_column)
    options = _with_grid(options, len(splits.train))
    fractions = [_evaluate_fraction(context, splits, options, percent) for percent in options.percent]

    # The first fraction gives the headline score and its interval.
    first, train, test = fractions[0], splits.train, splits.test
    low, high = first["interval_95"]
    interval, method = (low, high), f"t over {options.seeds} seeds"
    if options.seeds == 1:
        right = round(first["top1"][0] / 100 * len(test))
        interval, method = wilson_interval(np.arange(len(test)) < right)[1], "Wilson"
    metrics: dict[str, float] = {}
    for fraction in fractions:
        percent = f"{fraction['percent']:g} %"
        metrics |= {f"top-1 at {percent}": fraction["mean"], f"spread at {percent}": fraction["spread"]}
        metrics |= {f"top-5 at {percent}": float(np.mean(fraction["top5"]))} if fraction["top5"] else {}
    return Result(
        f"top-1 at {options.percent[0]:g} % of the labels",
        first["mean"],
        interval,
        {
            **{f"{f['percent']:g} %": f["chosen"] for f in fractions},
            "chosen_by": {f"{f['percent']:g} %": f["chosen_by"] for f in fractions},
            "seeds": {"number": options.seeds, "published": "[B] does not state a number"},
            "grid": {"name": options.grid, "lr": options.lr, "epochs": options.epochs, "batch": options.batch},
            "labels": "published lists" if context.subset_files else "stratified, drawn for each seed",
        },
        data_summary(context.data, len(train.classes), train=(len(train), train.sha256), test=(len(test), test.sha256))
        | {"split": splits.rule},
        interval=method,
        metrics=metrics,
        details={"fractions": fractions},
    )


def _with_grid(options: SemiSupervisedOptions, images: int) -> SemiSupervisedOptions:
    """Fill the options that were not given with the values of the grid."""
    # The number of images decides between the two grids.
    name = ("published" if images >= LARGE else "small") if options.grid == "auto" else options.grid
    if name not in GRIDS:
        raise UserError(f"--set grid: {name!r} is none of auto, {', '.join(GRIDS)}")
    if not options.percent or not all(0 < p <= 100 for p in options.percent) or options.seeds < 1:
        raise UserError("--set percent takes values above 0 and up to 100, --set seeds at least 1")
    # Options that the user gave win over the grid.
    grid = GRIDS[name]
    return replace(
        options,
        grid=name,
        lr=grid.lr if options.lr == (0.0,) else options.lr,
        epochs=grid.epochs if options.epochs == (0,) else options.epochs,
        batch=options.batch or grid.batch,
    )


def _evaluate_fraction(
    context: Context, splits: LabelledSplits, options: SemiSupervisedOptions, percent: float
) -> FractionJson:
    """Choose learning rate and epochs for one fraction of the labels, then fine-tune from each seed."""
    grid = list(product(options.lr, options.epochs))
    tried: dict[tuple[float, int], float | None] = {}  # by cell: two of them can be the same as text
    chosen, chosen_by = grid[0], "given"
    # Choose on held-out labelled images where there are several cells.
    if len(grid) > 1:
        train, val, chosen_by = selection_split(splits.train, percent, context.seed, context.subset_files)
        for lr, epochs in grid:
            scored = _finetune_and_score(context, train, val, options, lr, epochs, context.seed)
            tried[lr, epochs] = None if scored is None else scored["top1"]
        chosen = max(tried, key=lambda cell: -1.0 if (score := tried[cell]) is None else score)

    # Fine-tune from each seed with the chosen cell.
    top1: list[float] = []
    top5: list[float] = []
    images = 0
    for seed in range(context.seed, context.seed + options.seeds):
        labelled = labelled_subset(splits.train, percent, seed, context.subset_files)
        scored = _finetune_and_score(context, labelled, splits.test, options, *chosen, seed)
        if scored is None:
            raise UserError(f"the loss is not finite at lr {chosen[0]:g}: take smaller ones with --set lr=...")
        images = len(labelled)
        top1.append(scored["top1"])
        top5 += [scored["top5"]] if scored["top5"] is not None else []
    # One seed has no spread.
    mean, interval = mean_over_seeds(top1) if len(top1) > 1 else (top1[0], (0.0, 100.0))
    return {
        "percent": percent,
        "images": images,
        "chosen_by": chosen_by,
        "chosen": {
            "lr": chosen[0],
            "epochs": chosen[1],
            "held_out_accuracy": {f"lr {lr:g}, {epochs} epochs": score for (lr, epochs), score in tried.items()},
        },
        "mean": mean,
        "spread": float(np.std(top1, ddof=1)) if len(top1) > 1 else 0.0,
        "interval_95": [round(v, 2) for v in interval],
        "top1": top1,
        "top5": top5,
    }


def _finetune_and_score(
    context: Context,
    train: LabelledImages,
    test: LabelledImages,
    options: SemiSupervisedOptions,
    lr: float,
    epochs: int,
    seed: int,
) -> Accuracies | None:
    """Return the scores of one fine-tuning, from the cache if it was done before; ``None`` if it diverged."""
    # The cache is keyed by everything that changes the scores.
    batch = min(options.batch, len(train))
    recipe = FinetuneRecipe(epochs * _steps_of_an_epoch(len(train), batch), batch, lr, min_area=options.min_area)
    cached = context.cached_part(train.sha256, test.sha256, recipe.to_json(), seed)
    if (stored := cached.read()) is not None:
        scores: Accuracies | None = stored or None  # an empty dict: it diverged
        return scores
    # A diverged run is remembered too.
    try:
        model = finetune(context.embedder, train, recipe, seed=seed)
        logits = predict_logits(model, test, context.embedder.preprocessing, context.embedder.engine.device)
    except Diverged:
        cached.write({})
        return None
    right: NDArray[np.bool_] = logits.argmax(1) == test.labels
    five = top_k(logits, test.labels, trained=train.labels).get("top-5")
    scores = Accuracies(top1=round(100 * float(right.mean()), 4), top5=None if five is None else round(five, 4))
    cached.write(scores)
    return scores


def _steps_of_an_epoch(images: int, batch: int) -> int:
    """Return the number of batches; of ten or more it is rounded, as a pipeline that repeats the images has it.

    Of a few the last, partial one cannot be left out: of 95 images in batches of 64, one came every second epoch.
    """
    return len(epoch_batches(images, batch, 0, 0)) if images < 10 * batch else round(images / batch)


def selection_split(
    train: LabelledImages, percent: float, seed: int, subset_files: Path | None
) -> tuple[LabelledImages, LabelledImages, str]:
    """Return the images to train on and to validate on while hyper-parameters are chosen, and the rule in words."""
    rows = labelled_rows(train, percent, seed, subset_files)
    labelled = train.subset(rows, f"{percent:g} % of {train.name}")
    outside = np.setdiff1d(np.arange(len(train)), rows)
    if len(train) > 10 * HELD_OUT and len(outside) >= HELD_OUT:
        held = np.sort(np.random.Generator(np.random.Philox(key=seed)).permutation(outside)[:HELD_OUT])
        rule = f"{HELD_OUT} training images outside the labelled part; then all labelled images, once a seed"
        return labelled, train.subset(held, f"{train.name}, held out"), rule
    kept, held = hold_out(labelled.labels, 0.2, seed)
    rule = "a fifth of the labelled images, held out; then all of them, once a seed"
    return labelled.subset(kept, labelled.name), labelled.subset(held, f"{labelled.name}, held out"), rule


def labelled_subset(train: LabelledImages, percent: float, seed: int, subset_files: Path | None) -> LabelledImages:
    """Return the images whose labels may be used, from a list in ``subset_files`` or drawn from ``seed``.

    Raises:
        UserError: there is no list for this fraction, or it names a file that the training images lack.
    """
    return train.subset(labelled_rows(train, percent, seed, subset_files), f"{percent:g} % of {train.name}")


def labelled_rows(train: LabelledImages, percent: float, seed: int, subset_files: Path | None) -> Ints:
    """Return the rows of the images whose labels may be used; see ``labelled_subset``."""
    # Without lists, the labels are drawn by class.
    if subset_files is None:
        if percent == 100:
            return np.arange(len(train))
        return stratified_split(train.labels, percent / 100, seed)[0]
    # The published lists name the files.
    path = subset_files / f"{percent:g}percent.txt"
    try:
        wanted = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): SimCLR's lists are imagenet_subsets/1percent.txt and "
            "10percent.txt of github.com/google-research/simclr"
        ) from None
    return train.rows_named(wanted, path)
