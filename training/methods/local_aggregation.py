"""Local Aggregation for Unsupervised Learning of Visual Embeddings (Zhuang et al. 2019, arXiv 1903.12355), section 3.

After some epochs of instance discrimination, an image must be near to those of its neighbours in the memory bank that
share a cluster with it, in any of several clusterings of the bank.

Constants are those of neuroailab/LocalAggregation at 87ac593 (LAT), the paper's TensorFlow code. The same lab's PyTorch
code divides [B] by [B, 1] in the loss (``localagg.py:65-74``), which is not what the paper says, and not followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.base import Method, StepInfo, recipe_encoder
from training.methods.kmeans import kmeans, kmeans_bytes
from training.methods.memory_bank import MemoryBank
from training.methods.options import check_exponent, check_options
from training.methods.similarity import similarities, unit
from training.recipes.config import Range, Recipe
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.models.heads import moco_projector

_Z = 2876934.2 / 1281167  # for each image of the bank, LAT model/instance_model.py
_EPS = 1e-7  # in the logarithm, LAT model/instance_model.py
_SEED = 1234  # of the first clustering, LAT model/cluster_km.py


class LocalAggregation(Method):
    """Encoder (float [N, 3, H, W] -> [N, dim]), a Linear, the bank and its clusterings.

    Args:
        dim: size of the encoder's output.
        bank: D = 128, m = .5, T = .07, NCE in the first epochs with K = 4096, which is also the number of neighbours.
        clusterings: H; 10 for ResNet-50.
        clusters: of each clustering; 30 000.
        instance_epochs: first epochs, of instance discrimination, also a part of one; 10.
    """

    synchronised_bn = False
    views = (1, 1)
    uses_rows = True
    training_only = ("bank", "labels", "clustered_epoch")

    labels: Tensor
    clustered_epoch: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        bank: MemoryBank,
        *,
        clusterings: int = 10,
        clusters: int = 30_000,
        instance_epochs: float = 10,
    ) -> None:
        super().__init__()
        self.encoder, self.bank = encoder, bank
        self.clusters, self.instance_epochs = clusters, instance_epochs
        self.projector = moco_projector(dim, bank.memory.shape[1], layers=1)
        bank.Z.fill_(_Z * len(bank.memory))
        # Before the first clustering each image is its own cluster.
        self.register_buffer("labels", torch.arange(len(bank.memory)).repeat(clusterings, 1))  # HxN
        self.register_buffer("clustered_epoch", torch.tensor(-1))
        self._info = StepInfo(0, 1, 0, 0.0)

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, images: int = 1) -> Self:
        encoder, dim = recipe_encoder(recipe)
        return cls(
            encoder,
            dim,
            MemoryBank.from_recipe(recipe, images),
            clusterings=int(recipe.options["clusterings"]),
            clusters=int(recipe.options["clusters"]),
            instance_epochs=float(recipe.options["instance_epochs"]),
        )

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        MemoryBank.check(recipe)
        some = Range(1, whole=True)
        check_options(recipe, negatives=some, clusterings=some, clusters=some, instance_epochs=Range(0))
        check_exponent(recipe, "objective.temperature", recipe.objective.temperature)

    @classmethod
    def check(cls, recipe: Recipe, *, rows: int, dataset: Dataset) -> None:
        super().check(recipe, rows=rows, dataset=dataset)
        for name in ("negatives", "clusters"):
            if int(recipe.options[name]) > len(dataset):
                raise UserError(f"options.{name}={recipe.options[name]} is above the {len(dataset)} images: lower it")

    @classmethod
    def unreached(cls, recipe: Recipe, total_steps: int) -> list[str]:
        first, epochs = float(recipe.options["instance_epochs"]), recipe.optim.epochs
        if first <= epochs * (total_steps - 1) / total_steps:  # when the last step begins
            return []
        return [f"nothing is clustered: options.instance_epochs={first:g} covers all {epochs} epochs"]

    @classmethod
    def more_memory(cls, recipe: Recipe, images: int) -> tuple[int, int]:
        kept, scored = MemoryBank.bytes(recipe, images)  # and the clusters, and similarities to the whole bank
        clusters = int(recipe.options["clusterings"]) * images * 8
        return kept + clusters + kmeans_bytes(images, int(recipe.options["clusters"])), scored + 2 * images * 4

    def forward(
        self, views: Sequence[Tensor], labels: Tensor | None = None, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One view [N, 3, H, W], normalised, and the images' rows [N] -> ``loss``."""
        (view,) = views
        if rows is None:
            raise TypeError("the rows of the images in the memory bank are missing")
        f = unit(self.projector(self.encoder(view)))  # NxD
        if self._info.epochs < self.instance_epochs:
            loss = self.bank.loss(f, rows, self.bank.draw(rows, self._info.step))
        else:
            loss = self.aggregation(f, rows)
        self.bank.remember(f, rows)
        return {"loss": loss}

    def aggregation(self, f: Tensor, rows: Tensor) -> Tensor:
        """Features [B, D] of unit length and rows [B] -> - mean log (sum of P in B and C / sum of P in B), equation 4.

        B are the image's K nearest rows, C those that share a cluster with it. Z cancels.
        """
        nearest, B = (similarities(f, self.bank.memory) / self.bank.T).topk(self.bank.K)  # BxK
        C = (self.labels[:, B] == self.labels[:, rows][:, :, None]).any(0)  # BxK
        P = torch.exp(nearest)
        return -torch.log((P * C).sum(1) / P.sum(1) + _EPS).mean()

    def before_step(self, info: StepInfo) -> None:
        """Cluster the bank at the first step of the second phase, and of each of its epochs."""
        self._info = info
        if info.epochs >= self.instance_epochs and info.epoch != int(self.clustered_epoch):
            for h, labels in enumerate(self.labels):
                first = collectives.rank() == 0
                found = kmeans(self.bank.memory, self.clusters, seed=_SEED + h) if first else labels * 0
                labels.copy_(collectives.all_reduce_sum_(found))  # of the first rank: the others may round otherwise
            self.clustered_epoch.fill_(info.epoch)

    def after_step(self, info: StepInfo) -> None:
        """The features of the step enter the bank."""
        self.bank.update()
