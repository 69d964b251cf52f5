"""What a run tells about itself: whether its outputs collapse, and kNN accuracy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.data.augment import MEAN
from training.methods import Method
from training.recipes.config import Views
from zoo.datasets.dataset import Dataset
from zoo.evaluate.frozen import knn
from zoo.transforms.decode import UnreadableImage

BANK, QUERIES = 4000, 1000
COLLAPSED = 0.1  # of output_spread, which is 1 for isotropic outputs and 0 for constant ones
COLLAPSED_RANK = 2.0  # outputs on a line: 1. SimSiam's last BN keeps the spread up, and this tells its collapse
COMPLAINT = "the outputs have collapsed to a constant or a line: no image can be told from another, stop the run"
_BATCH = 128
_RANK_ROWS = 256


@dataclass(frozen=True)
class Health:
    """Of the network at one step.

    Attributes:
        spread, effective_rank: of the projections, see the functions.
        knn: percent; ``None`` without labels.
    """

    spread: float
    effective_rank: float
    knn: float | None


@torch.no_grad()
def examine(method: Method, dataset: Dataset, *, views: Views, device: torch.device) -> Health:
    """Looks at up to ``BANK + QUERIES`` training images, resized to the size of the views, squared; a fifth
    of them are classified by the others.

    Labels are never trained on, so training images will do for watching a run; a result needs ``zoo evaluate``.
    Leaves the network in train mode.
    """
    chosen = np.random.Generator(np.random.Philox(key=0)).permutation(len(dataset))[: BANK + QUERIES]
    method.eval()
    parts, kept = [], []
    dtype = next(method.encoder.parameters()).dtype
    for start in range(0, len(chosen), _BATCH):
        pixels, readable = _pixels(dataset, chosen[start : start + _BATCH], views, device)
        if len(pixels):
            parts.append(method.encoder(pixels.to(dtype)).float())
            kept.append(readable + start)
    chosen = chosen[torch.cat(kept).numpy()]
    features = torch.cat(parts)
    outputs = method.projector(features.to(dtype))
    spread, rank = output_spread(outputs), effective_rank(outputs[:_RANK_ROWS])
    method.train()
    if dataset.labels is None:
        return Health(spread, rank, None)
    labels = torch.from_numpy(dataset.labels[chosen]).to(device)
    cut = len(chosen) - len(chosen) // 5
    return Health(spread, rank, knn.accuracy(features[:cut], labels[:cut], features[cut:], labels[cut:]))


def collapsed(spread: float, rank: float) -> bool:
    """Whether outputs of this ``output_spread`` and ``effective_rank`` are a constant, or on a line."""
    return spread < COLLAPSED or rank < COLLAPSED_RANK


def output_spread(z: Tensor) -> float:
    """Standard deviation of l2-normalised outputs [N, D], times sqrt(D): 1 if isotropic, 0 if constant ([S] 4.1)."""
    return float(F.normalize(z.detach().float(), dim=1).std(0).mean() * z.shape[1] ** 0.5)


def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the singular values of the centred, l2-normalised outputs [N, D] (Roy & Vetterli 2007).

    Between 1 (all on a line) and min(N - 1, D) (spread evenly over all directions); 1 for constant outputs.
    """
    z = F.normalize(z.detach().double().cpu(), dim=1)
    z = z - z.mean(0)
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    total = values.sum()
    if total < 1e-9:
        return 1.0
    p = values / total
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


def _pixels(dataset: Dataset, rows: NDArray[np.int64], views: Views, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalised float [n, 3, views.size, views.size] of the rows that can be read, and which of ``rows`` these are."""
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(lambda row: _square(dataset, int(row), views.size), rows))
    good = {n: pixels for n, pixels in enumerate(read) if pixels is not None}
    if not good:
        return torch.empty(0, 3, views.size, views.size, device=device), torch.empty(0, dtype=torch.int64)
    x = torch.from_numpy(np.stack(list(good.values()))).to(device).permute(0, 3, 1, 2).float().div(255)
    mean, std = (x.new_tensor(v)[:, None, None] for v in (MEAN, views.std))
    return x.sub(mean).div(std), torch.tensor(list(good))


def _square(dataset: Dataset, row: int, size: int) -> NDArray[np.uint8] | None:
    try:
        pixels = dataset.pixels(row)
    except UnreadableImage:
        return None  # the run itself counts and names it
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
