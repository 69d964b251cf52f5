"""What a run tells about itself: kNN accuracy, and whether the outputs collapse."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from training.views import MEAN, STD
from zoo.datasets import Dataset
from zoo.evaluate import knn

BANK, QUERIES = 4000, 1000
COLLAPSED = 0.05  # of 1/sqrt(D), the value of isotropic outputs ([S] section 4.1)


@torch.no_grad()
def knn_accuracy(encoder: nn.Module, dataset: Dataset, *, size: int, device: torch.device) -> float | None:
    """Percent of ``QUERIES`` training images classified by ``BANK`` others; ``None`` without labels.

    Labels are never trained on, so training images will do for watching a run; a result needs ``zoo evaluate``.
    Images are resized to ``size`` squared. Leaves the encoder in train mode.
    """
    if dataset.labels is None:
        return None
    chosen = np.random.Generator(np.random.Philox(key=0)).permutation(len(dataset))[: BANK + QUERIES]
    encoder.eval()
    features = torch.cat([_embed(encoder, dataset, rows, size, device) for rows in np.array_split(chosen, 40)])
    encoder.train()
    labels = torch.from_numpy(dataset.labels[chosen]).to(device)
    cut = len(chosen) - len(chosen) // 5
    return knn.accuracy(features[:cut], labels[:cut], features[cut:], labels[cut:])


def _embed(
    encoder: nn.Module, dataset: Dataset, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]", size: int, device: torch.device
) -> Tensor:
    pixels = [np.array(dataset.image(int(i)).resize((size, size), Image.Resampling.BICUBIC)) for i in rows]
    x = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2).float().div(255)
    mean, std = (x.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    features: Tensor = encoder(x.sub(mean).div(std)).float()
    return features


def output_spread(z: Tensor) -> float:
    """Standard deviation of l2-normalised outputs [N, D], times sqrt(D): 1 if isotropic, 0 if constant ([S] 4.1)."""
    return (F.normalize(z.detach().float(), dim=1).std(0).mean() * z.shape[1] ** 0.5).item()
