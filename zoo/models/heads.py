"""Projectors and predictors as the official codes build them; all map float [N, dim_in] to [N, dim_out].

[B] is the BYOL paper (arXiv 2006.07733), [S] the SimSiam paper (arXiv 2011.10566).
"""

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


def simsiam_projector(dim_in: int, dim_out: int = 2048, layers: int = 3, hidden: int | None = None) -> nn.Sequential:
    """SimSiam's projector: BN after every Linear, ReLU after all but the last, the last BN without affine.

    The last Linear has a frozen bias (official ``builder.py``: "hack: not use bias as it is followed by BN").

    Args:
        layers: 3 for ImageNet and 2 for CIFAR-10 ([S] app. D).
        hidden: width of the hidden layers; ``None`` keeps ``dim_in``.
    """
    modules: list[nn.Module] = []
    hidden, width = hidden or dim_in, dim_in
    for _ in range(layers - 1):
        modules += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        width = hidden
    last = nn.Linear(width, dim_out)
    last.bias.requires_grad = False
    return nn.Sequential(*modules, last, nn.BatchNorm1d(dim_out, affine=False))


def simsiam_predictor(dim: int = 2048, hidden: int = 512) -> nn.Sequential:
    """SimSiam's predictor, a bottleneck: Linear, BN, ReLU, Linear with bias and no BN ([S] section 3)."""
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)
    )


def simclr_projector(dim_in: int, dim_out: int = 128, layers: int = 2) -> nn.Sequential:
    """SimCLR's head (official ``model.py``): Linear and BN per layer, ReLU after all but the last, no last BN bias.

    Hidden layers keep ``dim_in``; weights are initialised from N(0, .01^2).
    """
    modules: list[nn.Module] = []
    for layer in range(layers):
        last = layer == layers - 1
        linear = nn.Linear(dim_in, dim_out if last else dim_in, bias=False)
        nn.init.normal_(linear.weight, std=0.01)
        modules += [linear, nn.BatchNorm1d(linear.out_features)] + ([] if last else [nn.ReLU(inplace=True)])
    modules[-1].bias.requires_grad = False  # it stays 0, which equals no bias
    return nn.Sequential(*modules)


def moco_projector(dim_in: int, dim_out: int = 128, layers: int = 2) -> nn.Sequential:
    """MoCo v2's head: Linear, ReLU, Linear, all with bias, no BN (official ``builder.py``); v1's has one layer."""
    hidden = [m for _ in range(layers - 1) for m in (nn.Linear(dim_in, dim_in), nn.ReLU(inplace=True))]
    return nn.Sequential(*hidden, nn.Linear(dim_in, dim_out))


def swav_projector(dim_in: int, hidden: int = 2048, dim_out: int = 128, layers: int = 2) -> nn.Sequential:
    """SwAV's head: Linear, BN, ReLU, Linear, both with bias (official ``resnet50.py``); ``layers`` may be 3."""
    modules: list[nn.Module] = []
    width = dim_in
    for _ in range(layers - 1):
        modules += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        width = hidden
    return nn.Sequential(*modules, nn.Linear(width, dim_out))
