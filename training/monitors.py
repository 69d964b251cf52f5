"""What a run tells about itself: whether its outputs collapse, and kNN accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.methods import Method
from training.views import MEAN, STD
from zoo.datasets import Dataset
from zoo.evaluate import knn

BANK, QUERIES = 4000, 1000
COLLAPSED = 0.1  # of output_spread, which is 1 for isotropic outputs and 0 for constant ones
_BATCH = 128


@dataclass(frozen=True)
class Health:
    """Of the network at one step.

    Attributes:
        spread: of the projections, see ``output_spread``.
        knn: percent; ``None`` without labels.
    """

    spread: float
    knn: float | None


@torch.no_grad()
def examine(method: Method, dataset: Dataset, *, size: int, device: torch.device) -> Health:
    """Looks at up to ``BANK + QUERIES`` training images, resized to ``size`` squared; a fifth of them are classified
    by the others.

    Labels are never trained on, so training images will do for watching a run; a result needs ``zoo evaluate``.
    Leaves the network in train mode.
    """
    chosen = np.random.Generator(np.random.Philox(key=0)).permutation(len(dataset))[: BANK + QUERIES]
    method.eval()
    parts = [
        method.encoder(_pixels(dataset, chosen[start : start + _BATCH], size, device)).float()
        for start in range(0, len(chosen), _BATCH)
    ]
    features = torch.cat(parts)
    spread = output_spread(method.projector(features))
    method.train()
    if dataset.labels is None:
        return Health(spread, None)
    labels = torch.from_numpy(dataset.labels[chosen]).to(device)
    cut = len(chosen) - len(chosen) // 5
    return Health(spread, knn.accuracy(features[:cut], labels[:cut], features[cut:], labels[cut:]))


def output_spread(z: Tensor) -> float:
    """Standard deviation of l2-normalised outputs [N, D], times sqrt(D): 1 if isotropic, 0 if constant ([S] 4.1)."""
    return float(F.normalize(z.detach().float(), dim=1).std(0).mean() * z.shape[1] ** 0.5)


def _pixels(dataset: Dataset, rows: NDArray[np.int64], size: int, device: torch.device) -> Tensor:
    """Normalised float [len(rows), 3, size, size]."""
    pixels = [np.array(dataset.image(int(i)).resize((size, size), Image.Resampling.BICUBIC)) for i in rows]
    x = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2).float().div(255)
    mean, std = (x.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    return x.sub(mean).div(std)
