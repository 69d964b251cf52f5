"""lightly's methods trained as in its CIFAR-10 benchmark, with a recipe's network, batch and view size, for
``cifar10.py``.

Heads, losses and transforms are lightly's modules with the values of its ``benchmarks``; the optimiser is its SGD (lr
.06 for a batch of 128, momentum .9, decay 5e-4). Its cosine goes by steps instead of epochs, because a run of one epoch
would have no schedule at all. The encoder goes to OUT/encoder.safetensors, minutes and the time of a step to
OUT/cost.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from cifar10 import RECIPES, save_for_evaluation, unhindered
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from zoo.datasets.dataset import Dataset
from zoo.datasets.opening import open_training_data
from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder

_LOG_STEPS = 20


class Pairs(TorchDataset[Any]):
    """Applies lightly's transform in the DataLoader's worker, as LightlyDataset does."""

    def __init__(self, dataset: Dataset, transform: Any) -> None:
        self._dataset, self._transform = dataset, transform

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._transform(self._dataset.image(index))


class LightlyMethod(nn.Module, ABC):
    """An encoder with lightly's heads; ``loss`` takes two views."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def before_step(self) -> None: ...

    @abstractmethod
    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the loss of two views [N, 3, H, W]."""


class BYOL(LightlyMethod):
    def __init__(self, encoder: nn.Module, dim: int) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

        super().__init__(encoder)
        self.head, self.predictor = BYOLProjectionHead(dim, 1024, 256), BYOLPredictionHead(256, 1024, 256)
        self.target = copy.deepcopy(nn.Sequential(encoder, self.head)).requires_grad_(False)
        self.criterion = NegativeCosineSimilarity()

    def before_step(self) -> None:
        from lightly.models.utils import update_momentum

        update_momentum(nn.Sequential(self.encoder, self.head), self.target, m=0.99)

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        p0, p1 = (self.predictor(self.head(self.encoder(x))) for x in (x0, x1))
        with torch.no_grad():
            z0, z1 = self.target(x0), self.target(x1)
        found: Tensor = 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))
        return found


class SimSiam(LightlyMethod):
    def __init__(self, encoder: nn.Module, dim: int) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        super().__init__(encoder)
        self.head, self.predictor = SimSiamProjectionHead(dim, 2048, 2048), SimSiamPredictionHead(2048, 512, 2048)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        z0, z1 = (self.head(self.encoder(x)) for x in (x0, x1))
        p0, p1 = self.predictor(z0), self.predictor(z1)
        found: Tensor = 0.5 * (self.criterion(p0, z1.detach()) + self.criterion(p1, z0.detach()))
        return found


class OneHead(LightlyMethod):
    """SimCLR and Barlow Twins: one head, and a loss of both projections."""

    def __init__(self, encoder: nn.Module, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__(encoder)
        self.head, self.criterion = head, criterion

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        found: Tensor = self.criterion(*(self.head(self.encoder(x)) for x in (x0, x1)))
        return found


def simclr(encoder: nn.Module, dim: int) -> LightlyMethod:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    return OneHead(encoder, SimCLRProjectionHead(dim, dim, 128), NTXentLoss())


def barlow_twins(encoder: nn.Module, dim: int) -> LightlyMethod:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    return OneHead(encoder, BarlowTwinsProjectionHead(dim, 2048, 2048), BarlowTwinsLoss())


def views(method: str, size: int) -> Any:
    """lightly's transform of a method, without blur, as its CIFAR-10 benchmark has it."""
    from lightly.transforms import BYOLTransform, SimCLRTransform, SimSiamTransform
    from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform

    if method in ("byol", "barlowtwins"):
        first = BYOLView1Transform(input_size=size, gaussian_blur=0.0)
        return BYOLTransform(first, BYOLView2Transform(input_size=size, gaussian_blur=0.0))
    transform = {"simsiam": SimSiamTransform, "simclr": SimCLRTransform}[method]
    return transform(input_size=size, gaussian_blur=0.0)


METHODS: dict[str, Callable[[nn.Module, int], LightlyMethod]] = {
    "byol": BYOL,
    "simsiam": SimSiam,
    "simclr": simclr,
    "barlowtwins": barlow_twins,
}


def main() -> None:
    """Train one method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("recipe", choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="autocast, as our recipes with precision=bf16")
    args = parser.parse_args()
    # Build the network of the recipe, and lightly's method on it.
    recipe, device = RECIPES[args.recipe].make(), torch.device(args.device)
    torch.manual_seed(args.seed)
    known = ARCHITECTURES[recipe.architecture]
    encoder = build_encoder(replace(known, stem=recipe.stem))
    method = METHODS[args.method](encoder, known.num_features).to(device)
    batch = recipe.optim.batch_size
    trained = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.06 * batch / 128, momentum=0.9, weight_decay=5e-4)
    data = Pairs(open_training_data(args.data), views(args.method, recipe.views.size))
    loader = DataLoader(
        data, batch, shuffle=True, drop_last=True, num_workers=args.workers, persistent_workers=args.workers > 0
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.epochs * len(loader))
    # Train, and time the steps with their views.
    start = last = time.perf_counter()
    times: list[float] = []
    step = 0
    for _ in range(args.epochs):
        for x0, x1 in ((a.to(device, non_blocking=True), b.to(device, non_blocking=True)) for a, b in loader):
            method.before_step()
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                loss = method.loss(x0, x1)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            step += 1
            if step % _LOG_STEPS == 0:
                said, now = loss.item(), time.perf_counter()
                times.append((now - last) / _LOG_STEPS)
                last = now
                print(f"lightly {args.method}: step {step}, loss {said:.4f}", flush=True)
    minutes = (time.perf_counter() - start) / 60
    save_for_evaluation(encoder.cpu(), recipe, f"lightly's {args.method}", args.out)
    cost = {"minutes": minutes} | ({"step_ms": 1000 * unhindered(times)} if times else {})
    (args.out / "cost.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    main()
