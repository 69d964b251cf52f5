"""``linear-sgd``, ``linear-lars`` and ``linear-moco``: a linear classifier on frozen features of crops of each epoch.

``linear-sgd`` is [B] app. C.1 (BYOL, arXiv 2006.07733; constants of deepmind-research ``byol/eval_experiment.py``): SGD
Nesterov, learning rates .4, .3, .2, .1, .05 chosen on 10 009 held-out images. ``linear-lars`` is [S] app. A (SimSiam,
arXiv 2011.10566; constants of facebookresearch/simsiam ``main_lincls.py``): LARS, B = 4096, 90 epochs. ``linear-moco``
is facebookresearch/moco's ``main_lincls.py`` at 7397dfe: SGD, one learning rate of 30 that no batch size scales.

[B] holds out "the last 10009 last images of the official tensorflow ImageNet split" (D.1). TensorFlow Datasets shuffles
its files: the last images of a class-folder layout would be those of some eight classes, and no list of names is
published. So the held-out images are drawn at random; ``held_out`` takes the list of those who have TensorFlow's order.

All learning rates are trained in one pass over the data: each batch of crops goes through the encoder once, and all
heads, stored as one weight matrix, learn from it side by side. The heads that choose the learning rate leave the
held-out images out of each batch; the heads that are scored, one per learning rate too, learn from all images. BN is
frozen throughout.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from math import cos, pi
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.datasets.labelled import Ints, LabelledImages, open_splits
from zoo.errors import UserError, reason_of
from zoo.evaluate.features import cached_features, compute_features
from zoo.evaluate.frozen.worst_classes import worst_classes
from zoo.evaluate.metrics import top_k
from zoo.evaluate.option_ranges import require_above_zero, require_area, require_at_least
from zoo.evaluate.random_crops import RandomCrops, epoch_batches, prefetch_pixels
from zoo.evaluate.result import Result, data_summary, wilson_interval
from zoo.inference.embedder import Embedder
from zoo.inference.finite import require_finite_rows
from zoo.numerics.lars import LARS
from zoo.system.progress import Progress
from zoo.transforms.preprocess import PILLOW

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

HELD_OUT = 10_009  # [B] app. C.1; a tenth where the data set is smaller than ten times that
_FORWARD = 128  # crops through the encoder at a time
_MOMENTUM = 0.9  # all three codes


@dataclass(frozen=True)
class LinearSgdOptions:
    """The ``--set`` options of the three protocols.

    Attributes:
        lr: base learning rates, per 256 images of a batch.
        lars: use LARS (trust coefficient .001, no weight decay), not SGD.
        per_epoch: the cosine schedule changes once an epoch, not once a step.
        init: standard deviation of the initial weights; 0 means 1 / sqrt(D).
        clamped, min_area: see ``zoo.evaluate.random_crops.RandomCrops``.
        nesterov: SGD's momentum is Nesterov's.
        scaled: the learning rate is multiplied by ``batch / 256``.
        drops: epochs from which the learning rate is a tenth; empty means the cosine schedule.
        size: side of the crop in pixels, resized bilinearly, with a short side of ``size * 256 / 224`` at the test; 0
            means the preprocessing of the weights.
        held_out: file with the names of the training images that choose the learning rate, one a line; empty draws
            them at random.
    """

    epochs: int
    batch: int
    lr: tuple[float, ...]
    lars: bool
    per_epoch: bool
    init: float
    clamped: bool
    min_area: float = 0.08
    nesterov: bool = True
    scaled: bool = True
    drops: tuple[int, ...] = ()
    size: int = 0
    held_out: str = ""

    def __post_init__(self) -> None:
        require_above_zero(self, "epochs", "batch", "lr")
        require_at_least(self, init=0, drops=0, size=0)
        require_area(self.min_area)


PUBLISHED = {
    # [B] app. C.1; official eval_experiment.py has 80 epochs, cosine without warm-up, hk.Linear's initialisation
    "linear-sgd": LinearSgdOptions(80, 1024, (0.4, 0.3, 0.2, 0.1, 0.05), False, False, 0.0, True),
    # official main_lincls.py: 90 epochs, base lr .1; [S] app. A says .02. Weights from N(0, .01)
    "linear-lars": LinearSgdOptions(90, 4096, (0.1, 0.02), True, True, 0.01, False),
    # moco main_lincls.py: fc N(0, .01), lr 30 for any batch, --schedule 60 80, torchvision's crops, bilinear
    # Resize(256) before CenterCrop(224)
    "linear-moco": LinearSgdOptions(
        100, 256, (30.0,), False, True, 0.01, False, nesterov=False, scaled=False, drops=(60, 80), size=224
    ),
}


def evaluate(context: Context) -> Result:
    """Train a head per learning rate, choose one on held-out images, and return top-1 on the test split.

    Raises:
        UserError: data or options cannot be used, ``held_out`` with a single learning rate among them.
    """
    options = context.options(PUBLISHED[context.protocol])
    if options.held_out and len(options.lr) == 1:
        raise UserError(
            "--set held_out chooses between learning rates: give several, as --set lr=0.4,0.1, or leave held_out out"
        )
    splits = open_splits(context.data, context.seed, context.label_column)
    train, test = splits.train, splits.test
    embedder, labels, classes = _with_size(context.embedder, options.size), train.labels, len(train.classes)
    device = embedder.engine.device

    # rows that choose the learning rate, where there are several
    choosing = len(options.lr) > 1
    held, chosen_by = np.empty(0, np.int64), "given"
    if choosing:
        held, chosen_by = held_out_rows(train, options.held_out, context.seed)

    # one head per learning rate for the score, then one each for the choice, which does not see the held-out rows
    peaks = [lr * options.batch / 256 if options.scaled else lr for lr in options.lr]
    heads = ParallelHeads(
        peaks * (2 if choosing else 1), classes, embedder.dim, options, seed=context.seed, device=device
    )
    counts = np.ones((len(train), len(heads.peaks)), np.float32)
    counts[held, len(peaks) :] = 0
    crops = RandomCrops(train, embedder.preprocessing, context.seed, options.min_area, options.clamped)
    _train(heads, crops, labels, counts, embedder, context.seed, options)

    # Choose the learning rate by the heads that did not see the held-out rows.
    tried: dict[float, float] = {}
    if choosing:
        logits = _predict(heads, compute_features(embedder, train, held), device)
        for n, lr in enumerate(options.lr):
            right = logits[:, len(peaks) + n].argmax(1) == labels[held]
            tried[lr] = round(100 * float(right.mean()), 2)
    chosen = max(options.lr, key=lambda lr: tried.get(lr, 0.0))

    # Score the chosen head, which was trained on all rows.
    test_features = cached_features(embedder, test, test.sha256)
    scores = _predict(heads, test_features, device)[:, options.lr.index(chosen)]
    predictions = scores.argmax(1)
    score, interval = wilson_interval(predictions == test.labels)
    return Result(
        "top-1",
        score,
        interval,
        {
            "lr": chosen,
            "lr_per_images": 256 if options.scaled else "any batch",
            "chosen_by": chosen_by,
            "held_out_accuracy_by_lr": {f"{lr:g}": v for lr, v in tried.items()},
            "optimiser": _optimiser_name(options),
            "schedule": f"a tenth from epochs {', '.join(map(str, options.drops))}" if options.drops else "cosine",
            "epochs": options.epochs,
            "batch": options.batch,
        },
        data_summary(context.data, classes, train=(len(train), train.sha256), test=(len(test), test.sha256))
        | {"split": splits.rule},
        metrics=top_k(scores, test.labels, trained=train.labels),
        details=worst_classes(predictions, test.labels, train.classes),
    )


def held_out_rows(train: LabelledImages, names: str, seed: int) -> tuple[Ints, str]:
    """Return the sorted rows that choose the learning rate, and how they were found in words.

    Raises:
        UserError: the file of names cannot be read, is empty, or names images that are not there.
    """
    # Without a file, the rows are random.
    if not names:
        held = np.random.Generator(np.random.Philox(key=seed)).permutation(len(train))
        held = np.sort(held[: max(1, min(HELD_OUT, len(train) // 10))])
        return held, f"{len(held)} random training images, held out of heads of their own"
    # A file names the rows, for instance those of a published split.
    path = Path(names)
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--set held_out: cannot read {path} ({reason_of(error)})") from None
    held = np.unique(train.rows_named(lines, path))
    if not 0 < len(held) < len(train):
        raise UserError(f"--set held_out: {path} names {len(held)} of {len(train)} training images: some must be left")
    return held, f"{len(held)} training images of {path.name}, held out of heads of their own"


def _with_size(embedder: Embedder, size: int) -> Embedder:
    """Return the same network with bilinear crops of ``size`` pixels from 256/224 of it; 0 changes nothing."""
    if not size:
        return embedder
    preprocessing = replace(
        embedder.preprocessing,
        input_size=size,
        resize=round(size * 256 / 224),
        interpolation="bilinear",
        resizing=PILLOW,
    )
    return replace(embedder, preprocessing=preprocessing)


def _optimiser_name(options: LinearSgdOptions) -> str:
    if options.lars:
        return "LARS, trust .001"
    return "SGD, Nesterov" if options.nesterov else "SGD, momentum .9"


def learning_rate_factor(options: LinearSgdOptions, epoch: int, step: int, steps: int) -> float:
    """Return the part of the peak learning rate in a step (0 to ``steps`` - 1) of an epoch."""
    if options.drops:
        return float(0.1 ** sum(epoch >= drop for drop in options.drops))
    position = epoch if options.per_epoch else epoch + step / steps
    return 0.5 * (1 + cos(pi * position / options.epochs))


class ParallelHeads:
    """H linear classifiers that learn side by side from the same features.

    Args:
        peaks: highest learning rate of each head.
        classes, dim: C and D.

    Attributes:
        weight, bias: [H, C, D] and [H, C].
    """

    def __init__(
        self, peaks: list[float], classes: int, dim: int, options: LinearSgdOptions, *, seed: int, device: str
    ) -> None:
        # All heads start from the same weights.
        generator = torch.Generator().manual_seed(seed)
        one = torch.randn(classes, dim, generator=generator) * (options.init or dim**-0.5)
        self.weight = one.repeat(len(peaks), 1, 1).to(device)  # heads differ in their learning rate alone
        self.bias = torch.zeros(len(peaks), classes, device=device)
        self.peaks = peaks
        # the parameters share the memory of weight and bias
        self._parameters = [(nn.Parameter(w), nn.Parameter(b)) for w, b in zip(self.weight, self.bias, strict=True)]
        groups = [{"params": list(pair), "lr": 0.0} for pair in self._parameters]
        self._optimiser: torch.optim.Optimizer = (
            LARS(groups, lr=0.0, momentum=_MOMENTUM)
            if options.lars
            else torch.optim.SGD(groups, lr=0.0, momentum=_MOMENTUM, nesterov=options.nesterov)
        )

    def logits(self, x: Tensor) -> Tensor:
        """Return logits [B, H, C] of features [B, D]."""
        heads, classes, dim = self.weight.shape
        return (x @ self.weight.view(heads * classes, dim).T).view(len(x), heads, classes) + self.bias

    @torch.no_grad()
    def step(self, x: Tensor, labels: Tensor, counts: Tensor, factor: float) -> None:
        """Update all heads from features [B, D] and labels [B], at ``factor`` times each head's peak learning rate.

        ``counts`` [B, H] is 1 where a head learns from an image, else 0. The loss of a head is the mean cross-entropy
        over its images.
        """
        heads, classes, dim = self.weight.shape
        slope = self.logits(x).softmax(2)
        slope[torch.arange(len(x), device=x.device), :, labels] -= 1
        slope *= (counts / counts.sum(0).clamp_min(1))[:, :, None]
        by_weight = (slope.view(len(x), heads * classes).T @ x).view(heads, classes, dim)
        by_bias = slope.sum(0)
        for n, (weight, bias) in enumerate(self._parameters):
            weight.grad, bias.grad = by_weight[n], by_bias[n]
            self._optimiser.param_groups[n]["lr"] = self.peaks[n] * factor
        self._optimiser.step()


def _train(
    heads: ParallelHeads,
    crops: RandomCrops,
    labels: NDArray[np.int64],
    counts: NDArray[np.float32],
    embedder: Embedder,
    seed: int,
    options: LinearSgdOptions,
) -> None:
    device = embedder.engine.device
    with Progress("crops") as progress:
        progress.start(options.epochs * len(labels))
        for epoch in range(options.epochs):
            # Each epoch has its own order and crops.
            batches = epoch_batches(len(labels), options.batch, seed, epoch)
            chunks = [rows[i : i + _FORWARD] for rows in batches for i in range(0, len(rows), _FORWARD)]
            with closing(prefetch_pixels(chunks, partial(crops.pixels, epoch=epoch))) as decoded:
                for step, rows in enumerate(batches):
                    # the encoder sees a batch in chunks
                    x = np.empty((len(rows), embedder.dim), np.float32)
                    done = 0
                    while done < len(rows):
                        pixels = next(decoded)
                        x[done : done + len(pixels)] = embedder.engine(pixels)
                        done += len(pixels)
                        progress.advance(len(pixels))
                    # All heads take one step on the same features.
                    require_finite_rows(x, "the features of training crop")
                    heads.step(
                        torch.from_numpy(x).to(device),
                        torch.from_numpy(labels[rows]).to(device),
                        torch.from_numpy(counts[rows]).to(device),
                        learning_rate_factor(options, epoch, step, len(batches)),
                    )


def _predict(heads: ParallelHeads, features: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    """Return logits [N, H, C] of features [N, D]."""
    blocks = [heads.logits(block.to(device)).cpu() for block in torch.split(torch.from_numpy(features), 4096)]
    logits: NDArray[np.float32] = torch.cat(blocks).numpy()
    return logits
