"""Linear classification on frozen features with crops drawn anew every epoch: ``linear-sgd`` and ``linear-lars``.

``linear-sgd`` is [B] app. C.1: SGD Nesterov, learning rates .4, .3, .2, .1, .05 chosen on 10 009 held-out images.
``linear-lars`` is [S] app. A and the official ``main_lincls.py``: LARS, B = 4096, 90 epochs.

The whole sweep is one pass over the data: each batch of crops goes through the encoder once and all heads, one weight
matrix, learn from it side by side. Heads for choosing the learning rate leave the held-out images out of each batch;
those for the score, one for each learning rate too, learn from all. BN is frozen throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.datasets.labelled import open_splits
from zoo.evaluate.features import compute, features, require_finite
from zoo.evaluate.frozen.worst_classes import worst_classes
from zoo.evaluate.random_crops import Crops, ahead, batches
from zoo.evaluate.result import Result, describe_data, proportion, top_k
from zoo.numerics.lars import LARS
from zoo.system.progress import Progress

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

HELD_OUT = 10_009  # [B] app. C.1; a tenth where the data set is smaller than ten times that
_FORWARD = 128  # crops through the encoder at a time
_MOMENTUM = 0.9  # both codes


@dataclass(frozen=True)
class Options:
    """``--set`` of both protocols.

    Attributes:
        lr: base learning rates, per 256 images of a batch.
        lars: LARS (trust .001, no weight decay) instead of SGD Nesterov.
        per_epoch: the cosine goes down once an epoch, not once a step.
        init: deviation of the initial weights; 0 stands for 1 / sqrt(D).
        clamped: whose rule for crops; see ``zoo.evaluate.random_crops.Crops``.
    """

    epochs: int
    batch: int
    lr: tuple[float, ...]
    lars: bool
    per_epoch: bool
    init: float
    clamped: bool
    min_area: float = 0.08


PUBLISHED = {
    # [B] app. C.1; official eval_experiment.py has 80 epochs, cosine without warm-up, hk.Linear's initialisation
    "linear-sgd": Options(80, 1024, (0.4, 0.3, 0.2, 0.1, 0.05), False, False, 0.0, True),
    # official main_lincls.py: 90 epochs, base lr .1; [S] app. A says .02. Weights from N(0, .01)
    "linear-lars": Options(90, 4096, (0.1, 0.02), True, True, 0.01, False),
}


class Heads:
    """Linear classifiers that learn side by side from the same features.

    Args:
        peaks: learning rate of each head at its highest.

    Attributes:
        weight, bias: [H, C, D] and [H, C].
    """

    def __init__(self, peaks: list[float], classes: int, dim: int, options: Options, *, seed: int, device: str) -> None:
        generator = torch.Generator().manual_seed(seed)
        one = torch.randn(classes, dim, generator=generator) * (options.init or dim**-0.5)
        self.weight = one.repeat(len(peaks), 1, 1).to(device)  # heads differ in their learning rate alone
        self.bias = torch.zeros(len(peaks), classes, device=device)
        self.peaks = peaks
        parts = [(nn.Parameter(w), nn.Parameter(b)) for w, b in zip(self.weight, self.bias, strict=True)]
        self._parameters = parts  # they share the memory of weight and bias
        groups = [{"params": list(pair), "lr": 0.0} for pair in parts]
        self._optimiser: torch.optim.Optimizer = (
            LARS(groups, lr=0.0, momentum=_MOMENTUM)
            if options.lars
            else torch.optim.SGD(groups, lr=0.0, momentum=_MOMENTUM, nesterov=True)
        )

    def logits(self, x: Tensor) -> Tensor:
        """Features [B, D] -> [B, H, C]."""
        heads, classes, dim = self.weight.shape
        return (x @ self.weight.view(heads * classes, dim).T).view(len(x), heads, classes) + self.bias

    @torch.no_grad()
    def step(self, x: Tensor, labels: Tensor, counts: Tensor, factor: float) -> None:
        """One update from features [B, D] and labels [B], at ``factor`` of each head's peak learning rate.

        ``counts`` [B, H] is 1 where a head learns from an image; each head's loss is the mean cross-entropy over those.
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


def evaluate(context: Context) -> Result:
    """Top-1 on the test split; see the module."""
    options = context.options(PUBLISHED[context.protocol])
    splits = open_splits(context.data, context.seed)
    train, test = splits.train, splits.test
    embedder, labels, classes = context.embedder, train.labels, len(train.classes)
    device, choosing = embedder.engine.device, len(options.lr) > 1
    held = np.random.Generator(np.random.Philox(key=context.seed)).permutation(len(train))
    held = np.sort(held[: max(1, min(HELD_OUT, len(train) // 10))]) if choosing else held[:0]

    peaks = [lr * options.batch / 256 for lr in options.lr]
    heads = Heads(peaks * (2 if choosing else 1), classes, embedder.dim, options, seed=context.seed, device=device)
    counts = np.ones((len(train), len(heads.peaks)), np.float32)
    counts[held, len(peaks) :] = 0  # the second half of the heads has not seen them
    crops = Crops(train, embedder.preprocessing, context.seed, options.min_area, options.clamped)
    _learn(heads, crops, labels, counts, context, options)

    tried: dict[float, float] = {}
    if choosing:
        logits = _logits(heads, compute(embedder, train, held), device)
        for n, lr in enumerate(options.lr):
            right = logits[:, len(peaks) + n].argmax(1) == labels[held]
            tried[lr] = round(100 * float(right.mean()), 2)
    chosen = max(options.lr, key=lambda lr: tried.get(lr, 0.0))
    queries = features(embedder, test, test.sha256)
    scores = _logits(heads, queries, device)[:, options.lr.index(chosen)]
    predictions = scores.argmax(1)
    score, interval = proportion(predictions == test.labels)
    return Result(
        "top-1",
        score,
        interval,
        {
            "lr": chosen,
            "lr_per_images": 256,
            "chosen_by": f"{len(held)} training images, held out of heads of their own" if choosing else "given",
            "held_out_accuracy_by_lr": {f"{lr:g}": v for lr, v in tried.items()},
            "optimiser": "LARS, trust .001" if options.lars else "SGD, Nesterov",
            "epochs": options.epochs,
            "batch": options.batch,
        },
        describe_data(context.data, classes, train=(len(train), train.sha256), test=(len(test), test.sha256))
        | {"split": splits.rule},
        metrics=top_k(scores, test.labels),
        details=worst_classes(predictions, test.labels, train.classes),
    )


def _learn(
    heads: Heads, crops: Crops, labels: NDArray[np.int64], counts: NDArray[np.float32], context: Context, o: Options
) -> None:
    engine, device = context.embedder.engine, context.embedder.engine.device
    per_epoch = len(batches(len(labels), o.batch, context.seed, 0))
    with Progress("crops") as progress:
        progress.start(o.epochs * len(labels))
        for epoch in range(o.epochs):
            planned = batches(len(labels), o.batch, context.seed, epoch)
            parts = [rows[i : i + _FORWARD] for rows in planned for i in range(0, len(rows), _FORWARD)]
            crop = ahead(parts, lambda rows, epoch=epoch: crops.pixels(rows, epoch))  # type: ignore[misc]
            for step, rows in enumerate(planned):
                x = np.empty((len(rows), context.embedder.dim), np.float32)
                done = 0
                while done < len(rows):
                    part, pixels = next(crop)
                    x[done : done + len(part)] = engine(pixels)
                    done += len(part)
                    progress.advance(len(part))
                require_finite(x, "a training crop")
                at = epoch if o.per_epoch else epoch + step / per_epoch
                heads.step(
                    torch.from_numpy(x).to(device),
                    torch.from_numpy(labels[rows]).to(device),
                    torch.from_numpy(counts[rows]).to(device),
                    0.5 * (1 + cos(pi * at / o.epochs)),
                )


def _logits(heads: Heads, x: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    parts = [heads.logits(part.to(device)).cpu() for part in torch.split(torch.from_numpy(x), 4096)]
    stacked: NDArray[np.float32] = torch.cat(parts).numpy()
    return stacked
