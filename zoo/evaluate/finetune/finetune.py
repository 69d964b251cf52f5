"""Fine-tuning of all layers with a linear classifier on top; semi-supervised and transfer evaluation share it."""

from __future__ import annotations

import copy
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from math import cos, pi

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.datasets.labelled import LabelledImages
from zoo.errors import UserError
from zoo.evaluate.errors import Diverged
from zoo.evaluate.random_crops import RandomCrops, epoch_batches, prefetch_pixels
from zoo.inference.embedder import Embedder
from zoo.models.memory_format import training_format
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

_FORWARD = 128  # test images through the network at a time


@dataclass(frozen=True)
class FinetuneRecipe:
    """One fine-tuning by SGD with Nesterov momentum .9; cosine to 0 without warm-up, as the papers state no schedule.

    Attributes:
        steps: optimiser steps.
        batch: images per step, at most the data set.
        lr: initial learning rate for this batch; not scaled.
        weight_decay: on all parameters; [B] app. D.3 divides its values by lr before they come here.
        bn_momentum: of BN's running statistics, as PyTorch counts it: 1 minus the decay of the papers.
        min_area, clamped: see ``zoo.evaluate.random_crops.RandomCrops``.
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.0
    bn_momentum: float = 0.1
    min_area: float = 0.08
    clamped: bool = True

    def to_json(self) -> dict[str, object]:
        """Return the fields by name, for results and for the names of cached parts."""
        return asdict(self)


def finetune(embedder: Embedder, data: LabelledImages, recipe: FinetuneRecipe, *, seed: int) -> nn.Module:
    """Train a copy of the embedder's network on all of ``data``; BN trains too, the embedder stays as it is.

    Args:
        seed: of the head, the order of the images and the crops.

    Returns:
        Module in eval mode: float [N, 3, H, W], normalised -> logits [N, C].

    Raises:
        UserError: fewer than two images, or labels beyond the classes.
        Diverged: the loss is not finite. A learning rate that is too high without that just scores low.
    """
    if len(data) < 2:
        raise UserError(f"{data.name} has {len(data)} labelled image: BN cannot train on fewer than two")
    # Start from the pretrained network with a new head.
    model = build_classifier(embedder, data, seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = recipe.bn_momentum
    model.train()
    device, preprocessing = embedder.engine.device, embedder.preprocessing
    optimiser = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    crops = RandomCrops(data, preprocessing, seed, recipe.min_area, recipe.clamped)
    layout, step, epoch = training_format(model, torch.device(device)), 0, 0
    with Progress("steps") as progress:
        progress.start(recipe.steps)
        while step < recipe.steps:
            # The last epoch may be cut short.
            batches = epoch_batches(len(data), min(recipe.batch, len(data)), seed, epoch)[: recipe.steps - step]
            with closing(prefetch_pixels(batches, partial(crops.pixels, epoch=epoch))) as decoded:
                for rows, pixels in zip(batches, decoded, strict=True):
                    # The learning rate falls along a cosine.
                    for group in optimiser.param_groups:
                        group["lr"] = recipe.lr * 0.5 * (1 + cos(pi * step / recipe.steps))
                    x = torch.from_numpy(preprocessing.normalise(pixels)).to(device, memory_format=layout)
                    loss = _loss(model(x), torch.from_numpy(data.labels[rows]).to(device))
                    # Stop early, as a lost run cannot recover.
                    if not bool(loss.isfinite()):
                        raise _diverged(f"the loss is not finite at lr {recipe.lr:g}")
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    step += 1
                    progress.advance(1)
            epoch += 1
    return model.eval()


def build_classifier(embedder: Embedder, data: LabelledImages, seed: int) -> nn.Module:
    """Return a copy of the encoder with a linear layer for the classes of ``data``.

    Raises:
        UserError: a label is beyond the classes.
    """
    classes, largest = len(data.classes), int(data.labels.max())
    if largest >= (2 if data.labels.ndim == 2 else classes):
        raise UserError(f"{data.name} has label {largest} and {classes} classes: the head is too small")
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(embedder.dim, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, embedder.dim, generator=generator) * embedder.dim**-0.5)
        head.bias.zero_()
    # the encoder was loaded outside inference mode, so its tensors can be trained
    return nn.Sequential(copy.deepcopy(embedder.model), head.to(embedder.engine.device))


@torch.no_grad()
def predict_logits(
    model: nn.Module, data: LabelledImages, preprocessing: Preprocessing, device: str
) -> NDArray[np.float32]:
    """Return logits [N, C] of ``data`` in the test transform.

    Raises:
        Diverged: they are not finite.
    """
    rows = np.arange(len(data))
    batches = [rows[start : start + _FORWARD] for start in range(0, len(rows), _FORWARD)]

    def pixels(batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([preprocessing.pixels(data.image(int(row))) for row in batch])

    parts = []
    with closing(prefetch_pixels(batches, pixels)) as decoded:
        for images in decoded:
            x = torch.from_numpy(preprocessing.normalise(images)).to(device, memory_format=torch.channels_last)
            parts.append(model(x).float().cpu())
    logits: NDArray[np.float32] = torch.cat(parts).numpy()
    # Weights can diverge even if the last loss was finite.
    if not np.isfinite(logits).all():
        raise _diverged(f"fine-tuned on {data.name}, the network gives no finite answers")
    return logits


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of logits [N, C] for labels [N], or [N, C] of 1, 0 and -1 (not judged)."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    judged = (labels >= 0).to(logits)
    each = F.binary_cross_entropy_with_logits(logits, labels.clamp_min(0).to(logits), reduction="none")
    return (each * judged).sum(1).mean()


def _diverged(reason: str) -> Diverged:
    return Diverged(f"{reason}: take a smaller learning rate with --set lr=...")
