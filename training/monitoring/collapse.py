"""Detects a collapse of the outputs, and measures kNN accuracy on training images."""

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
from zoo.errors import UserError
from zoo.evaluate.frozen import knn
from zoo.transforms.unreadable import UnreadableImage

COLLAPSE_SPREAD = 0.1  # limit of output_spread, which is 1 for isotropic outputs and 0 for constant ones
SHIFTED_SPREAD = 0.01  # the same limit where the loss does not see what all outputs have in common: CPC's untrained
# ResNet-50 has .066. Rounding in bfloat16 alone gives constant outputs some .003.
COLLAPSE_RANK = 2.0  # limit of effective_rank, which is 1 for outputs on a line. SimSiam's last BN keeps the spread
# high during a collapse, so that only the rank shows it.
COLLAPSE_WARNING = "the outputs have collapsed to a constant or a line: images cannot be told apart, stop the run"
_BANK, _QUERIES = 4000, 1000
_BATCH = 128
_RANK_ROWS = 256  # the effective rank needs the eigenvalues of a matrix of this size


@dataclass(frozen=True)
class Measurement:
    """The outputs of a network, measured on training images.

    Attributes:
        spread, effective_rank: ``output_spread`` and ``effective_rank`` of the projections.
        knn: kNN accuracy in percent; ``None`` without labels.
        vanished: the outputs' own deviation is near 0, in a method whose loss sees it (``Method.scaled_outputs``), or
            one of several parts has collapsed (``Method.output_parts``).
        least_spread: the method's ``least_spread``.
    """

    spread: float
    effective_rank: float
    knn: float | None
    vanished: bool = False
    least_spread: float = COLLAPSE_SPREAD

    @property
    def collapsed(self) -> bool:
        """True if the outputs are constant or on a line, or vanish."""
        return self.vanished or collapsed(self.spread, self.effective_rank, self.least_spread)

    def log_values(self) -> dict[str, float]:
        """Return the values as the log states them."""
        values = {"spread": round(self.spread, 4), "effective_rank": round(self.effective_rank, 2)}
        return values if self.knn is None else {**values, "knn": round(self.knn, 2)}

    def __str__(self) -> str:
        accuracy = "" if self.knn is None else f", kNN {self.knn:.1f} %"
        return f"spread of the outputs {self.spread:.2f}, rank {self.effective_rank:.1f}{accuracy}"


@torch.no_grad()
def measure_outputs(method: Method, dataset: Dataset, *, views: Views, device: torch.device) -> Measurement:
    """Measure up to 5000 training images; the last fifth is classified by the others.

    Images are resized to squares of the views' size. The methods do not train on labels, so training images suffice to
    watch a run; for a result use ``zoo evaluate``. Leaves the network in train mode.

    Raises:
        UserError: an output is not finite, or no image can be read.
    """
    # Pick the same images at every call, so that the values can be compared.
    rows = np.random.Generator(np.random.Philox(key=0)).permutation(len(dataset))[: _BANK + _QUERIES]
    method.eval()
    dtype = next(method.encoder.parameters()).dtype
    rows, features = _features(method, dataset, rows, views, device)
    # Their projections, which show a collapse.
    outputs = method.projector(features.to(dtype))
    _require_finite(outputs)
    spread, rank = output_spread(outputs), effective_rank(outputs[:_RANK_ROWS])
    gone, least = vanished(method, outputs), least_spread(method)
    method.train()
    # Skip the kNN score without labels.
    if dataset.labels is None:
        return Measurement(spread, rank, None, gone, least)
    # Classify a fifth of the images by the others.
    labels = torch.from_numpy(dataset.labels[rows]).to(device)
    bank = len(rows) - len(rows) // 5
    accuracy = knn.accuracy(features[:bank], labels[:bank], features[bank:], labels[bank:])
    return Measurement(spread, rank, accuracy, gone, least)


@torch.no_grad()
def held_out_knn(
    method: Method, bank: Dataset, queries: Dataset, *, views: Views, device: torch.device
) -> tuple[NDArray[np.bool_], Tensor]:
    """Classify images that were not trained on by kNN among those that were, as ``measure_outputs`` does.

    Returns:
        Which of the readable ``queries`` are right, bool [M], and their projections [M, D].

    Raises:
        UserError: there are no labels, no image can be read, or an output is not finite.
    """
    method.eval()
    found = []
    for dataset in (bank, queries):
        rows, features = _features(method, dataset, np.arange(len(dataset)), views, device)
        found.append((torch.from_numpy(dataset.required_labels[rows]).to(device), features))
    (labels, known), (truth, asked) = found
    outputs = method.projector(asked.to(next(method.encoder.parameters()).dtype))
    _require_finite(outputs)
    right = knn.predict(known, labels, asked) == truth
    return right.cpu().numpy(), outputs


def _features(
    method: Method, dataset: Dataset, rows: NDArray[np.int64], views: Views, device: torch.device
) -> tuple[NDArray[np.int64], Tensor]:
    """Return the rows whose images can be read, and the encoder's features of them [n, dim].

    Raises:
        UserError: none can be read.
    """
    batches, kept = [], []
    dtype = next(method.encoder.parameters()).dtype
    for start in range(0, len(rows), _BATCH):
        pixels, readable = normalised_pixels(dataset, rows[start : start + _BATCH], views, device)
        if len(pixels):
            batches.append(method.encoder(pixels.to(dtype)).float())
            kept.append(readable + start)
    if not batches:
        raise UserError(
            f"{dataset.name}: none of the {len(rows)} images to measure by can be read: remove or replace them"
        )
    return rows[torch.cat(kept).numpy()], torch.cat(batches)


def _require_finite(outputs: Tensor) -> None:
    """Raise UserError if an output is not finite. Finite weights can have such outputs."""
    if not bool(outputs.isfinite().all()):
        raise UserError(
            "the outputs of the network are not finite after the last update: lower optim.lr or optim.weight_decay; "
            "the last checkpoint is good"
        )


def least_spread(method: Method) -> float:
    """Return the ``output_spread`` below which a method's outputs are constant."""
    return SHIFTED_SPREAD if method.shift_invariant else COLLAPSE_SPREAD


def collapsed(spread: float, rank: float, least: float = COLLAPSE_SPREAD) -> bool:
    """Return True if outputs with this ``output_spread`` and ``effective_rank`` are constant or on a line.

    Args:
        least: ``least_spread`` of the method.
    """
    return spread < least or rank < COLLAPSE_RANK


def vanished(method: Method, z: Tensor) -> bool:
    """Return True if a method's outputs [N, D] have a deviation near 0, and its loss sees their length.

    Also if a part of them, which the loss compares by itself, is constant or on a line.
    """
    if method.scaled_outputs and float(z.detach().float().std(0).mean()) < COLLAPSE_SPREAD:
        return True
    parts = z.chunk(method.output_parts, 1) if method.output_parts > 1 else ()
    return any(collapsed(output_spread(z), effective_rank(z[:_RANK_ROWS]), least_spread(method)) for z in parts)


def output_spread(z: Tensor) -> float:
    """Standard deviation of l2-normalised outputs [N, D], times sqrt(D): 1 if isotropic, 0 if constant ([S] 4.1)."""
    return float(F.normalize(z.detach().float(), dim=1).std(0).mean() * z.shape[1] ** 0.5)


def effective_rank(z: Tensor) -> float:
    """Effective rank (Roy & Vetterli 2007) of the centred, l2-normalised outputs [N, D]: exp(entropy) of their
    singular values.

    It is between 1 (all outputs on a line) and min(N - 1, D) (evenly spread over all directions), and 1 for constant
    outputs.
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


def normalised_pixels(
    dataset: Dataset, rows: NDArray[np.int64], views: Views, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return float [n, 3, views.size, views.size] of the n readable images, and their indices in ``rows``."""
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(lambda row: _resized(dataset, int(row), views.size), rows))
    readable = {n: pixels for n, pixels in enumerate(read) if pixels is not None}
    if not readable:
        return torch.empty(0, 3, views.size, views.size, device=device), torch.empty(0, dtype=torch.int64)
    x = torch.from_numpy(np.stack(list(readable.values()))).to(device).permute(0, 3, 1, 2).float().div(255)
    mean, std = (x.new_tensor(v)[:, None, None] for v in (MEAN, views.std))
    return x.sub(mean).div(std), torch.tensor(list(readable))


def _resized(dataset: Dataset, row: int, size: int) -> NDArray[np.uint8] | None:
    try:
        pixels = dataset.pixels(row)
    except UnreadableImage:
        return None  # the data loader counts and reports it
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
