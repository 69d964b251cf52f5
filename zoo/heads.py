"""Projectors and predictors, as the official codes build them. All take and give float [N, D]."""

from __future__ import annotations

from torch import nn


def byol_mlp(dim_in: int, hidden: int = 4096, dim_out: int = 256) -> nn.Sequential:
    """BYOL's projector and predictor: Linear, BN, ReLU, Linear without bias ([B] 3.3; official ``networks.py``)."""
    return nn.Sequential(
        nn.Linear(dim_in, hidden),
        nn.BatchNorm1d(hidden, eps=1e-5, momentum=0.1),  # official decay .9 = PyTorch momentum .1
        nn.ReLU(inplace=True),
        nn.Linear(hidden, dim_out, bias=False),
    )


def simsiam_projector(dim_in: int, dim_out: int = 2048, layers: int = 3) -> nn.Sequential:
    """SimSiam's projector: BN after every Linear, ReLU after all but the last, the last BN without affine.

    ``layers`` is 3 for ImageNet and 2 for CIFAR-10 ([S] app. D); hidden layers keep ``dim_in`` (official
    ``builder.py``). The last Linear has a bias that is frozen ("hack: not use bias as it is followed by BN").
    """
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(dim_in, dim_in, bias=False), nn.BatchNorm1d(dim_in), nn.ReLU(inplace=True)]
    last = nn.Linear(dim_in, dim_out)
    last.bias.requires_grad = False
    return nn.Sequential(*modules, last, nn.BatchNorm1d(dim_out, affine=False))


def simsiam_predictor(dim: int = 2048, hidden: int = 512) -> nn.Sequential:
    """SimSiam's predictor, a bottleneck: Linear, BN, ReLU, Linear with bias and no BN ([S] section 3)."""
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)
    )
