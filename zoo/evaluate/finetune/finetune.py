"""Fine-tuning of all layers with a linear classifier on top; semi-supervised and transfer evaluation share it."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from math import cos, pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.datasets.labelled import Labelled
from zoo.errors import UserError
from zoo.evaluate.random_crops import Crops, ahead, batches
from zoo.inference.embedder import Embedder
from zoo.system.progress import Progress
from zoo.transforms.preprocess import Preprocessing

_FORWARD = 128


@dataclass(frozen=True)
class Recipe:
    """One fine-tuning; SGD with Nesterov momentum .9, cosine to 0 without warm-up (the papers state no schedule).

    Attributes:
        steps: optimiser steps.
        batch: images a step, at most the data set.
        lr: at the start, for this batch; not scaled.
        weight_decay: on all parameters, [B] D.1 divides its values by lr before they come here.
        bn_momentum: of BN's running statistics, PyTorch's; 1 minus the decay of the papers.
        min_area, clamped: see ``zoo.evaluate.random_crops.Crops``.
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.0
    bn_momentum: float = 0.1
    min_area: float = 0.08
    clamped: bool = True

    def to_json(self) -> dict[str, Any]:
        """For results and for the names of finished parts."""
        return asdict(self)


def finetune(embedder: Embedder, data: Labelled, recipe: Recipe, *, seed: int) -> nn.Module:
    """A copy of the embedder's network, trained on all of ``data``: float [N, 3, H, W], normalised -> logits [N, C].

    BN trains too. Head, order and crops come from ``seed``; the embedder is left as it is.

    Raises:
        UserError: fewer than two images, or the loss is not finite (a learning rate that is too high is no such case:
            its score is just low, unless it overflows).
    """
    if len(data) < 2:
        raise UserError(f"{data.name} has {len(data)} labelled image: BN cannot train on fewer than two")
    model = classifier(embedder, len(data.classes), data, seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = recipe.bn_momentum
    model.train()
    device, preprocessing = embedder.engine.device, embedder.preprocessing
    optimiser = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    crops = Crops(data, preprocessing, seed, recipe.min_area, recipe.clamped)
    step, epoch = 0, 0
    with Progress("steps") as progress:
        progress.start(recipe.steps)
        while step < recipe.steps:
            planned = batches(len(data), min(recipe.batch, len(data)), seed, epoch)[: recipe.steps - step]
            for rows, pixels in ahead(planned, lambda rows, epoch=epoch: crops.pixels(rows, epoch)):  # type: ignore[misc]
                for group in optimiser.param_groups:
                    group["lr"] = recipe.lr * 0.5 * (1 + cos(pi * step / recipe.steps))
                x = torch.from_numpy(preprocessing.normalise(pixels)).to(device, memory_format=torch.channels_last)
                loss = _loss(model(x), torch.from_numpy(data.labels[rows]).to(device))
                if not bool(loss.isfinite()):
                    raise Diverged(f"the loss is not finite at lr {recipe.lr:g}")
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                step += 1
                progress.advance(1)
            epoch += 1
    return model.eval()


class Diverged(UserError):
    """Loss or answers are not finite; a sweep counts such a learning rate as failed."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: take a smaller learning rate with --set lr=...")


def classifier(embedder: Embedder, classes: int, data: Labelled, seed: int) -> nn.Module:
    """A copy of the encoder with a linear layer for ``classes``. UserError: labels beyond the classes."""
    if int(data.labels.max()) >= (2 if data.labels.ndim == 2 else classes):
        raise UserError(f"{data.name} has label {int(data.labels.max())} and {classes} classes: the head is too small")
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(embedder.dim, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, embedder.dim, generator=generator) * embedder.dim**-0.5)
        head.bias.zero_()
    # from inference mode's point of view the encoder's tensors are ordinary ones: they were loaded outside it
    return nn.Sequential(copy.deepcopy(embedder.model), head.to(embedder.engine.device))


@torch.no_grad()
def scores(model: nn.Module, data: Labelled, preprocessing: Preprocessing, device: str) -> NDArray[np.float32]:
    """Logits [N, C] of the test transform. Raises ``Diverged`` where they are not finite."""
    rows = np.arange(len(data))
    parts = [rows[i : i + _FORWARD] for i in range(0, len(rows), _FORWARD)]
    found = []
    for _, pixels in ahead(parts, lambda part: np.stack([preprocessing.pixels(data.image(int(i))) for i in part])):
        x = torch.from_numpy(preprocessing.normalise(pixels)).to(device, memory_format=torch.channels_last)
        found.append(model(x).float().cpu())
    result: NDArray[np.float32] = torch.cat(found).numpy()
    if not np.isfinite(result).all():
        raise Diverged(f"fine-tuned on {data.name}, the network gives no finite answers")
    return result


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    judged = (labels >= 0).to(logits)  # several labels an image; -1 is not judged
    each = F.binary_cross_entropy_with_logits(logits, labels.clamp_min(0).to(logits), reduction="none")
    return (each * judged).sum(1).mean()
