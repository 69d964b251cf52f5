"""Fine-tuning with 1 % and 10 % of the labels ([B] section 4 and app. C.1).

All layers train, BN too: SGD Nesterov, no weight decay, B = 1024, learning rate and epochs of a grid. They are chosen
on a fifth of the labelled images; the network is then fine-tuned on all of those, five times from different seeds.

Which images have labels: SimCLR's lists ``1percent.txt`` and ``10percent.txt`` (a file name a line, as
n01440764_10026.JPEG) where ``--subset-files`` gives their folder; else a part of each class, drawn anew for each seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.datasets.labelled import Labelled, Splits, hold_out, open_splits, stratified
from zoo.errors import UserError
from zoo.evaluate.finetune.finetune import Diverged, Recipe, finetune, scores
from zoo.evaluate.result import Result, describe_data, over_seeds, proportion, top_k

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

LARGE = 100_000  # training images from which "auto" takes the published grid


@dataclass(frozen=True)
class Options:
    """``--set`` of ``semi-supervised``.

    Attributes:
        percent: of the labels; the first is the score, all are in ``metrics``.
        grid: ``published``, ``small``, or ``auto``: published from ``LARGE`` training images on.
        lr, epochs, batch: of the grid where they are empty or 0.
        seeds: fine-tunings for the mean.
    """

    percent: tuple[float, ...] = (1.0, 10.0)
    grid: str = "auto"
    lr: tuple[float, ...] = (0.0,)
    epochs: tuple[int, ...] = (0,)
    batch: int = 0
    seeds: int = 5
    min_area: float = 0.08


GRIDS = {
    "published": {"lr": (0.01, 0.02, 0.05, 0.1, 0.005), "epochs": (30, 50), "batch": 1024},  # [B] app. C.1
    "small": {"lr": (0.02, 0.1), "epochs": (30,), "batch": 64},  # for data sets of a few thousand images; no paper's
}


def evaluate(context: Context) -> Result:
    """Mean top-1 over the seeds at the first fraction; see the module."""
    options = context.options(Options())
    splits = open_splits(context.data, context.seed)
    options = _filled(options, len(splits.train))
    found = [_fraction(context, splits, options, percent) for percent in options.percent]
    first, test = found[0], splits.test
    interval, how = first["interval_95"], f"t over {options.seeds} seeds"
    if options.seeds == 1:
        right = round(first["top1"][0] / 100 * len(test))
        interval, how = proportion(np.arange(len(test)) < right)[1], "Wilson"
    metrics: dict[str, float] = {}
    for fraction in found:
        percent = f"{fraction['percent']:g} %"
        metrics |= {f"top-1 at {percent}": fraction["mean"], f"spread at {percent}": fraction["spread"]}
        metrics |= {f"top-5 at {percent}": float(np.mean(fraction["top5"]))} if fraction["top5"] else {}
    parameters: dict[str, Any] = {f"{f['percent']:g} %": f["chosen"] for f in found}
    parameters |= {
        "chosen_by": "a fifth of the labelled images, held out; then all of them, once a seed",
        "grid": {"name": options.grid, "lr": options.lr, "epochs": options.epochs, "batch": options.batch},
        "labels": "published lists" if context.subset_files else "stratified, drawn for each seed",
    }
    return Result(
        f"top-1 at {options.percent[0]:g} % of the labels",
        first["mean"],
        tuple(interval),
        parameters,
        describe_data(
            context.data,
            len(splits.train.classes),
            train=(len(splits.train), splits.train.sha256),
            test=(len(test), test.sha256),
        )
        | {"split": splits.rule},
        interval=how,
        metrics=metrics,
        details={"fractions": found},
    )


def _filled(options: Options, images: int) -> Options:
    name = ("published" if images >= LARGE else "small") if options.grid == "auto" else options.grid
    if name not in GRIDS:
        raise UserError(f"--set grid: {name!r} is none of auto, {', '.join(GRIDS)}")
    if not options.percent or not all(0 < p <= 100 for p in options.percent) or options.seeds < 1:
        raise UserError("--set percent takes values above 0 and up to 100, --set seeds at least 1")
    grid: dict[str, Any] = dict(GRIDS[name])
    given: dict[str, Any] = {"lr": options.lr, "epochs": options.epochs, "batch": options.batch}
    return replace(options, grid=name, **{k: v if v not in ((0,), (0.0,), 0) else grid[k] for k, v in given.items()})


def _fraction(context: Context, splits: Splits, options: Options, percent: float) -> dict[str, Any]:
    """One fraction of the labels: the choice, then the seeds. Finished parts are found again after a kill."""
    cells = list(product(options.lr, options.epochs))
    tried: dict[str, float | None] = {}
    chosen = cells[0]
    if len(cells) > 1:
        labelled = labelled_part(splits.train, percent, context.seed, context.subset_files)
        kept, held = hold_out(labelled.labels, 0.2, context.seed)
        judge = labelled.part(held, f"{labelled.name}, held out")
        for lr, epochs in cells:
            scored = _score(context, labelled.part(kept, labelled.name), judge, options, lr, epochs, context.seed)
            tried[f"lr {lr:g}, {epochs} epochs"] = None if scored is None else scored["top1"]
        best = max(tried, key=lambda cell: -1.0 if tried[cell] is None else float(tried[cell] or 0))
        chosen = cells[list(tried).index(best)]
    top1, top5, images = [], [], 0
    for seed in range(context.seed, context.seed + options.seeds):
        labelled = labelled_part(splits.train, percent, seed, context.subset_files)
        scored = _score(context, labelled, splits.test, options, *chosen, seed)
        if scored is None:
            raise UserError(f"the loss is not finite at lr {chosen[0]:g}: take smaller ones with --set lr=...")
        images = len(labelled)
        top1.append(scored["top1"])
        top5 += [scored["top5"]] if scored["top5"] is not None else []
    mean, interval = over_seeds(top1) if len(top1) > 1 else (top1[0], (0.0, 100.0))
    return {
        "percent": percent,
        "images": images,
        "chosen": {"lr": chosen[0], "epochs": chosen[1], "held_out_accuracy": tried},
        "mean": mean,
        "spread": float(np.std(top1, ddof=1)) if len(top1) > 1 else 0.0,
        "interval_95": [round(v, 2) for v in interval],
        "top1": top1,
        "top5": top5,
    }


def _score(
    context: Context, train: Labelled, test: Labelled, options: Options, lr: float, epochs: int, seed: int
) -> dict[str, Any] | None:
    """Percent top-1 and top-5 of one fine-tuning, ``None`` where it diverged."""
    batch = min(options.batch, len(train))
    recipe = Recipe(epochs * max(1, round(len(train) / batch)), batch, lr, min_area=options.min_area)
    cell = context.cell(train.sha256, test.sha256, recipe.to_json(), seed)
    if (kept := cell.read()) is not None:
        return kept or None
    try:
        model = finetune(context.embedder, train, recipe, seed=seed)
        logits = scores(model, test, context.embedder.preprocessing, context.embedder.engine.device)
    except Diverged:
        cell.write({})
        return None
    right: NDArray[np.bool_] = logits.argmax(1) == test.labels
    five = top_k(logits, test.labels).get("top-5")
    value = {"top1": round(100 * float(right.mean()), 4), "top5": None if five is None else round(five, 4)}
    cell.write(value)
    return value


def labelled_part(train: Labelled, percent: float, seed: int, subset_files: Path | None) -> Labelled:
    """The images whose labels may be used.

    Raises:
        UserError: no list for this fraction, or it names a file that the training images lack.
    """
    name = f"{percent:g} % of {train.name}"
    if subset_files is None:
        rows = np.arange(len(train)) if percent == 100 else stratified(train.labels, percent / 100, seed)[0]
        return train.part(rows, name)
    path = subset_files / f"{percent:g}percent.txt"
    try:
        wanted = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): SimCLR's lists are imagenet_subsets/1percent.txt and "
            "10percent.txt of github.com/google-research/simclr"
        ) from None
    number = {Path(train.row_name(row)).name: row for row in range(len(train))}
    missing = [file for file in wanted if file not in number]
    if missing:
        raise UserError(f"{train.name} lacks {len(missing)} of the {len(wanted)} files of {path.name}: {missing[0]}")
    return train.part(np.array([number[file] for file in wanted], np.int64), name)
