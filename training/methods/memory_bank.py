"""A memory bank: one vector per training image, and the losses that tell an image from others by it.

InstDisc's section 3 (Wu et al. 2018, arXiv 1805.01978); CMC and PIRL use the same bank.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.nce import first_normaliser, nce
from training.methods.options import check_exponent, check_options
from training.methods.similarity import similarities, unit
from training.recipes.config import Range, Recipe
from zoo.numerics.counter_rng import uniforms

_STREAM = 2 << 32  # random streams of the negatives; the views' count from 1, the loader's is 1 << 32
_OPTIONS: dict[str, tuple[str, type]] = {
    "negatives": ("negatives", int),
    "momentum": ("bank_momentum", float),
    "loss": ("loss", str),
    "start": ("bank_start", str),
}
_STARTS = ("uniform", "uniform_unit", "normal_unit")


class MemoryBank(nn.Module):
    """Vectors v of N images, what a batch is scored against, and Z.

    The vectors of a step enter the bank after it, from all ranks and micro-batches, so that every image of the step
    meets the same bank.

    Args:
        images: N.
        dim: D, size of a vector.
        negatives: K, bank rows drawn for each image, uniformly and with replacement, its own included; 0 scores an
            image against the whole bank.
        momentum, temperature: m of the update, and T.
        loss: ``nce`` or ``softmax``, a cross-entropy in which the image's own row is right.
        eps: of NCE's two logarithms.
        start: the rows before the first update: ``uniform`` is within 1 / sqrt(D / 3) of 0, not of unit length;
            ``uniform_unit`` is the same of unit length, ``normal_unit`` isotropic.
        seed: of the negatives.
    """

    memory: Tensor
    Z: Tensor

    def __init__(
        self,
        images: int,
        dim: int,
        *,
        negatives: int,
        momentum: float = 0.5,
        temperature: float = 0.07,
        loss: str = "nce",
        eps: float = 1e-7,
        start: str = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.K, self.m, self.T, self.eps, self.kind, self.seed = negatives, momentum, temperature, eps, loss, seed
        if start == "normal_unit":
            rows = torch.randn(images, dim)
        else:
            rows = (torch.rand(images, dim) * 2 - 1) / (dim / 3) ** 0.5
        self.register_buffer("memory", rows if start == "uniform" else unit(rows))  # NxD
        self.register_buffer("Z", torch.tensor(-1.0))  # -1 is "not yet"
        self._features: list[Tensor] = []  # of this step's micro-batches and all ranks, with their rows
        self._rows: list[Tensor] = []

    @classmethod
    def from_recipe(cls, recipe: Recipe, images: int, **others: Any) -> Self:
        """Build a bank with the recipe's options ``negatives``, ``bank_momentum``, ``loss`` and ``bank_start``."""
        options: dict[str, Any] = {"bank_start": "uniform", **recipe.options}
        others |= {name: kind(options[ours]) for name, (ours, kind) in _OPTIONS.items()}
        return cls(images, recipe.heads.out, temperature=recipe.objective.temperature, seed=recipe.seed, **others)

    @staticmethod
    def check(recipe: Recipe) -> None:
        """Raise UserError if one of the bank's options is missing or out of range, or T too small for NCE."""
        check_options(recipe, negatives=Range(0, whole=True), bank_momentum=Range(0, 1), loss=("nce", "softmax"))
        if "bank_start" in recipe.options:
            check_options(recipe, bank_start=_STARTS)
        if recipe.options["loss"] == "nce" and int(recipe.options["negatives"]):
            check_exponent(recipe, "objective.temperature", recipe.objective.temperature)

    @staticmethod
    def bytes(recipe: Recipe, images: int) -> tuple[int, int]:
        """Return the bytes of a bank of so many images, and of the rows that one image is scored against."""
        row, drawn = recipe.heads.out * 4, int(recipe.options["negatives"])
        return images * row, (drawn + 1) * row if drawn else 2 * images * 4  # of K = 0, logits and probabilities

    def draw(self, rows: Tensor, step: int, term: int = 0) -> Tensor:
        """Images' rows int64 [B] -> rows to score against, int64 [B, K + 1]; column 0 is the image's own.

        Args:
            step: the draw is a function of the seed, the step and the row.
            term: separates the draws of losses with several terms.
        """
        u = uniforms(self.seed, _STREAM + term, step, rows.cpu().numpy(), self.K)
        drawn = torch.from_numpy((u * len(self.memory)).astype(np.int64)).to(rows.device)
        return torch.cat([rows[:, None], drawn], 1)

    def logits(self, f: Tensor, drawn: Tensor) -> Tensor:
        """Features [B, D] of unit length and rows [B, K + 1] -> f.v / T, [B, K + 1]."""
        with torch.autocast(f.device.type, enabled=False):
            v = self.memory[drawn.flatten()].view(*drawn.shape, -1).to(f.dtype)  # Bx(K+1)xD
            return torch.bmm(v, f[:, :, None])[:, :, 0] / self.T

    def loss(self, f: Tensor, rows: Tensor, drawn: Tensor) -> Tensor:
        """Features [B, D] of unit length, the images' rows [B] and what ``draw`` returned -> the mean loss."""
        if not self.K:
            return F.cross_entropy(similarities(f, self.memory) / self.T, rows)
        logits = self.logits(f, drawn)
        if self.kind == "softmax":
            return F.cross_entropy(logits, torch.zeros_like(rows))
        return self.nce(logits)

    def nce(self, logits: Tensor) -> Tensor:
        """Noise-contrastive estimation of f.v / T [B, K + 1]."""
        return nce(logits.exp() / self._normaliser(logits), len(self.memory), self.eps)

    @torch.no_grad()
    def _normaliser(self, logits: Tensor) -> Tensor:
        """Return Z of the first batch, the same for ever."""
        first = first_normaliser(logits, len(self.memory))
        Z = torch.where(self.Z > 0, self.Z.to(first.dtype), first)
        if self.training:
            self.Z.copy_(Z)
        return Z

    def remember(self, f: Tensor, rows: Tensor) -> None:
        """Keep features [B, D] of images [B] for the update after this step. A collective call."""
        if self.training:
            self._features.append(collectives.gather(f))
            self._rows.append(collectives.gather(rows))

    @torch.no_grad()
    def update(self) -> None:
        """v <- m v + (1 - m) f, then of unit length; of two features of one image (a replaced one) the last counts."""
        if not self._rows:
            return
        f, rows = torch.cat(self._features), torch.cat(self._rows)
        self._features.clear()
        self._rows.clear()
        last = ((rows[:, None] == rows) * torch.arange(1, len(rows) + 1, device=rows.device)).argmax(1)
        v = unit(self.m * self.memory[rows] + (1 - self.m) * f[last].to(self.memory.dtype))
        self.memory[rows] = v.to(self.memory.dtype)
