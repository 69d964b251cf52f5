"""lightly's BYOL and SimSiam as in its examples, one training step at a time, for ``training.py``."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from zoo.datasets.dataset import Dataset

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16}


class Images(TorchDataset[Any]):
    """The same images as ours; lightly's transform is applied to a PIL image in the worker."""

    def __init__(self, dataset: Dataset, transform: Callable[[Any], list[Tensor]]) -> None:
        self._dataset, self._transform = dataset, transform

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self._transform(self._dataset.image(index))


class LightlyBYOL(nn.Module):
    """The model of lightly's example ``byol.py``, with the paper's sizes."""

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        import copy

        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        self.backbone = backbone
        self.projection_head = BYOLProjectionHead(dim, 4096, 256)
        self.prediction_head = BYOLPredictionHead(256, 4096, 256)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def before(self) -> None:
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.backbone_momentum, m=0.99)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.99)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        p0, p1 = (self.prediction_head(self.projection_head(self.backbone(x).flatten(1))) for x in (x0, x1))
        z0, z1 = (self.projection_head_momentum(self.backbone_momentum(x).flatten(1)).detach() for x in (x0, x1))
        loss: Tensor = 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))
        return loss


class LightlySimSiam(nn.Module):
    """The model of lightly's example ``simsiam.py``, with the official code's sizes."""

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        super().__init__()
        self.backbone = backbone
        self.projection_head = SimSiamProjectionHead(dim, dim, 2048)
        self.prediction_head = SimSiamPredictionHead(2048, 512, 2048)
        self.criterion = NegativeCosineSimilarity()

    def before(self) -> None: ...

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        z0, z1 = (self.projection_head(self.backbone(x).flatten(1)) for x in (x0, x1))
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        loss: Tensor = 0.5 * (self.criterion(p0, z1.detach()) + self.criterion(p1, z0.detach()))
        return loss


def lightly_network(method: str, args: argparse.Namespace, channels_last: bool) -> tuple[Any, torch.optim.Optimizer]:
    """Return lightly's module and the paper's optimiser: lightly's LARS for BYOL, SGD for SimSiam."""
    from lightly.utils.lars import LARS

    names = {"r18": "resnet18", "r50": "resnet50"}
    resnet = getattr(torchvision.models, names[args.architecture])()
    dim = resnet.fc.in_features
    backbone = nn.Sequential(*list(resnet.children())[:-1])
    network: Any = (LightlyBYOL if method == "byol" else LightlySimSiam)(backbone, dim).to(args.device)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if args.compile_lightly:
        network.compile()
    parameters = [p for p in network.parameters() if p.requires_grad]
    if method == "byol":
        return network, LARS(parameters, lr=0.1, momentum=0.9, weight_decay=1e-6)
    return network, torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4)


def lightly_steps(
    method: str, args: argparse.Namespace, dataset: Dataset, network: Any, optimiser: Any, *, workers: int, last: bool
) -> Iterator[None]:
    from lightly.transforms import BYOLTransform, SimSiamTransform
    from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform

    transform = (
        BYOLTransform(BYOLView1Transform(input_size=args.size), BYOLView2Transform(input_size=args.size))
        if method == "byol"
        else SimSiamTransform(input_size=args.size)
    )
    cuda, dtype = args.device.startswith("cuda"), AUTOCAST[args.precision]
    loader = DataLoader(
        Images(dataset, transform),
        args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=cuda,
        multiprocessing_context="fork" if workers else None,  # the default on Linux, but not inside a spawned process
    )
    for x0, x1 in itertools.chain.from_iterable(itertools.repeat(loader)):
        x0, x1 = (
            x.to(args.device, non_blocking=True, memory_format=torch.channels_last if last else torch.preserve_format)
            for x in (x0, x1)
        )
        network.before()
        with torch.autocast(args.device.partition(":")[0], dtype, enabled=dtype is not None):
            loss = network(x0, x1)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        loss.item()  # lightly's examples log it
        yield
