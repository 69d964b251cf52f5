"""The masked context network of CPC v2 and its predictions, in one direction (arXiv 1905.09272, appendix)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.similarity import at_least_float32, similarities

_SCALE = 0.1  # of the predictions, ``emb_scale`` in the pseudo-code


class Direction(nn.Module):
    """A masked context network, and a linear prediction for each number of rows ahead."""

    def __init__(self, dim: int, hidden: int, out: int, steps: range, layers: int) -> None:
        super().__init__()
        self.steps = steps
        self.context = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, hidden, 1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)),
                nn.ZeroPad2d((0, 0, 1, 0)),  # a row above: row i sees the rows i - 1 and i
                nn.Conv2d(hidden, hidden, (2, 1)),
                nn.ReLU(),
                nn.Conv2d(hidden, dim, 1),
            )
            for _ in range(layers)
        )
        self.predictions = nn.ModuleList(nn.Conv2d(dim, out, 1) for _ in steps)

    def forward(self, z: Tensor, targets: Tensor) -> Tensor:
        """Vectors [N, dim, R, C] and targets [N, D, R, C], predicted downwards -> the sum of the steps' losses."""
        n, d, rows, columns = targets.shape
        c = z
        for block in self.context:
            c = c + block(c)
        c = F.relu(c)
        keys = collectives.gather_with_gradient(at_least_float32(targets.permute(0, 2, 3, 1).reshape(-1, d)))
        own = torch.arange(n * rows * columns, device=z.device).view(n, rows, columns)
        own = own + collectives.rank() * own.numel()
        losses = []
        for step, predict in zip(self.steps, self.predictions, strict=True):
            predicted = at_least_float32(predict(c[:, :, :-step])) * _SCALE
            logits = similarities(predicted.permute(0, 2, 3, 1).reshape(-1, d), keys)  # no temperature, no unit length
            losses.append(F.cross_entropy(logits, own[:, step:].flatten()))
        return torch.stack(losses).sum()
