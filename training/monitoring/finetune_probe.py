"""Finetunes a copy of the encoder on labelled training images, to watch a run by what it is for.

The run itself is not touched: the copy has weights of its own, the order of its images depends on the epoch alone, and
torch's random state stays as it was. The settings are ours, and small: for a result use ``zoo evaluate
semi-supervised`` or ``transfer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.methods import Method
from training.methods.base import recipe_encoder
from training.monitoring.collapse import normalised_pixels
from training.recipes.config import Recipe
from zoo.datasets.dataset import Dataset
from zoo.models.memory_format import training_format

_TRAIN, _TEST = 1000, 500  # images, at most
_SHARE = 5  # a fifth of a smaller set is for the test
_PASSES, _BATCH, _LR, _MOMENTUM = 5, 50, 0.01, 0.9


def finetuned_accuracy(
    method: Method, recipe: Recipe, dataset: Dataset, *, epoch: int, device: torch.device
) -> float | None:
    """Return the accuracy in percent of a finetuned copy of the encoder on held-out training images.

    Encoder and a linear classifier are trained for five passes over at most 1000 images, resized to squares of the
    views' size (SGD, .01, momentum .9, batches of 50). At most 500 other images are classified. The methods do not
    train on labels, so training images suffice to watch a run.

    Returns:
        ``None`` without labels, or where the images are fewer than ten.
    """
    if dataset.labels is None or len(dataset) < 2 * _SHARE:
        return None
    # Take the same images at every call, so that the values can be compared.
    rows = np.random.Generator(np.random.Philox(key=0)).permutation(len(dataset))[: _TRAIN + _TEST]
    train, test = np.split(rows, [len(rows) - min(_TEST, len(rows) // _SHARE)])
    batches = _Batches(dataset, dataset.labels, recipe, device)
    # Copy the encoder without its hooks, which watch the run's own passes.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        encoder, dim = recipe_encoder(recipe)
        classifier = nn.Linear(dim, int(dataset.labels.max()) + 1).to(device)
    encoder.to(device).load_state_dict(method.plain_weights())
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    network = nn.Sequential(encoder, classifier)
    network = network.to(memory_format=training_format(network, device))
    _train(network, batches, train, epoch)
    # Count what it gets right.
    network.eval()
    right = seen = 0
    with torch.no_grad():
        for pixels, labels in batches.of(test):
            right, seen = right + int((network(pixels).argmax(1) == labels).sum()), seen + len(labels)
    return 100 * right / seen if seen else None


@dataclass(frozen=True)
class _Batches:
    dataset: Dataset
    labels: NDArray[np.int64]
    recipe: Recipe
    device: torch.device

    def of(self, rows: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels [n, 3, H, W] and labels [n] of the readable images, at most 50 at a time."""
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            pixels, readable = normalised_pixels(self.dataset, part, self.recipe.views, self.device)
            if len(pixels):
                yield pixels, torch.from_numpy(self.labels[part[readable.numpy()]]).to(self.device)


def _train(network: nn.Module, batches: _Batches, rows: NDArray[np.int64], epoch: int) -> None:
    """Train on some rows; a batch of one image has no BN statistics and is left out."""
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=_LR, momentum=_MOMENTUM)
    for number in range(_PASSES):
        order = np.random.Generator(np.random.Philox(key=epoch, counter=number)).permutation(rows)
        for pixels, labels in batches.of(order):
            if len(pixels) < 2:
                continue
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(F.cross_entropy(network(pixels), labels))
            optimiser.step()
