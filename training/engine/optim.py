"""Optimisers, with the parameter groups that the methods' official codes use.

A network of timm that is no ResNet has no official code here. Its *vectors* get neither weight decay nor a trust ratio,
by the rule of timm's ``param_groups_weight_decay``: biases, the scales of norms and layers, and what the network itself
names in ``no_weight_decay`` (position embeddings, class tokens, tables of relative positions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from training.methods import Method
from training.recipes.config import Optim
from zoo.numerics.lars import LARS

Groups: TypeAlias = "list[dict[str, object]] | None"
"""Parameter groups of the method itself; ``None`` where the optimiser makes them."""


def build_optimiser(method: Method, config: Optim, *, decay_vectors: bool = True) -> torch.optim.Optimizer:
    """Return the recipe's optimiser with the method's parameter groups; ``set_learning_rate`` sets the rate.

    Args:
        decay_vectors: keep the official codes' groups, of which some decay biases and norms too. ``False`` spares them
            with every optimiser, unless the method has groups of its own.
    """
    weight_decay = config.weight_decay
    groups = method.parameter_groups(config)
    if groups is None and not decay_vectors:
        groups = without_decay_of_vectors(method, weight_decay)
    match config.name:
        case "lars":
            return lars(method, groups, momentum=config.momentum, weight_decay=weight_decay)
        case "lars_classic":
            return lars(method, groups, momentum=config.momentum, weight_decay=weight_decay, classic_momentum=True)
        case "larc":
            return larc(method, groups, momentum=config.momentum, weight_decay=weight_decay)
        case "sgd":
            return sgd(method, groups, momentum=config.momentum, weight_decay=weight_decay)
        case "adamw":
            return adamw(method, groups, weight_decay=weight_decay)


def without_decay_of_vectors(method: Method, weight_decay: float) -> list[dict[str, object]]:
    """Return groups of matrices, which decay and adapt, and of vectors, which do not; the predictor's are apart.

    A parameter with one long axis, such as a scale [C, 1, 1] or a class token [1, 1, D], is a vector too.
    """
    spared = set(getattr(method.encoder, "no_weight_decay", set)())
    found: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, p in method.named_parameters():
        if p.requires_grad:
            within = name.removeprefix("encoder.")
            one_axis = p.ndim > 2 and p.numel() == max(p.shape)
            is_vector = p.ndim <= 1 or one_axis or name.endswith(".bias") or (within != name and within in spared)
            found.setdefault((name.startswith("predictor."), is_vector), []).append(p)
    return [
        {
            "params": params,
            "weight_decay": 0.0 if is_vector else weight_decay,
            "adapt": not is_vector,
            **({"predictor": True} if is_predictor else {}),
        }
        for (is_predictor, is_vector), params in sorted(found.items())
    ]


def set_learning_rate(optimiser: torch.optim.Optimizer, config: Optim, lr: float) -> None:
    """Set the rate of all groups. SimSiam's predictor keeps a constant rate if the recipe says so ([S] section 4.2)."""
    constant = config.lr * config.batch_size / 256
    for group in optimiser.param_groups:
        rate = constant if group.get("predictor") and config.fixed_predictor_lr else lr
        group["lr"] = rate * group.get("lr_scale", 1)


def lars(
    method: Method,
    groups: Groups = None,
    *,
    momentum: float,
    weight_decay: float,
    eta: float = 1e-3,
    classic_momentum: bool = False,
) -> LARS:
    """BYOL's and SimCLR's optimiser: biases and BN parameters get neither weight decay nor a trust ratio ([B] 3.3).

    SimCLR's official ``model.py`` excludes the same parameters by name. All other parameters of these networks have two
    dimensions or more, so the shape tells them apart. ``classic_momentum`` is SimCLR's: it multiplies the gradient by
    the learning rate before the momentum. A method's own group that says nothing of ``adapt`` has no trust ratio where
    it holds biases and BN parameters alone.
    """
    if groups is None:
        trainable = [p for p in method.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
        ]
    else:  # the method's own: as SGD does, take the recipe's decay where a group has none
        groups = [_with_adapt(group) for group in groups]
    return LARS(
        groups, lr=0.0, momentum=momentum, weight_decay=weight_decay, eta=eta, classic_momentum=classic_momentum
    )


def sgd(method: Method, groups: Groups = None, *, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SimSiam's and MoCo v2's optimiser: weight decay on ALL parameters; the predictor is a group of its own."""
    if groups is None:
        named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in named if not name.startswith("predictor.")]},
            {"params": [p for name, p in named if name.startswith("predictor.")], "predictor": True},
        ]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=0.0, momentum=momentum, weight_decay=weight_decay)


class LARC(torch.optim.SGD):
    """SwAV's optimiser: layer-wise rates for ALL parameters, biases and BN too, as in NVIDIA's ``LARC.py`` (no clip)::

        g <- (g + weight_decay p) eta |p| / (|g| + weight_decay |p| + 1e-8)    (unchanged if either norm is 0)
        m <- momentum m + g
        p <- p - lr m

    Unlike in LARS the denominator adds two norms, and a parameter of norm 0 gets no weight decay. A group with
    ``adapt=False`` keeps its gradients as they are.
    """

    def __init__(
        self, params: ParamsT, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0, eta: float = 1e-3
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        for group in self.param_groups:  # not SGD's own weight decay, which would not be scaled
            group["larc_weight_decay"], group["eta"], group["weight_decay"] = group["weight_decay"], eta, 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters from ``p.grad``, which it scales in place."""
        if closure is not None:
            raise TypeError("LARC takes no closure")
        # Scale each gradient by the layer's trust ratio.
        for group in self.param_groups:
            decay = group["larc_weight_decay"]
            for p in group["params"] if group.get("adapt", True) else ():
                if p.grad is None:
                    continue
                p_norm, g_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(p.grad)
                rate = group["eta"] * p_norm / (g_norm + decay * p_norm + 1e-8)
                # torch.where stays on the device; an ``if`` would wait for the norms
                p.grad.copy_(torch.where((p_norm > 0) & (g_norm > 0), (p.grad + decay * p) * rate, p.grad))
        # Leave momentum and the update to plain SGD.
        super().step()


def larc(method: Method, groups: Groups = None, *, momentum: float, weight_decay: float) -> LARC:
    """SwAV's optimiser over all parameters in one group (official ``main_swav.py``)."""
    return LARC(groups or _trainable(method), lr=0.0, momentum=momentum, weight_decay=weight_decay)


def adamw(method: Method, groups: Groups = None, *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW, which no paper uses; for short runs on small machines."""
    return torch.optim.AdamW(groups or _trainable(method), lr=0.0, weight_decay=weight_decay)


def _with_adapt(group: dict[str, object]) -> dict[str, object]:
    assert isinstance(group["params"], Iterable)
    params = list(group["params"])
    return {"adapt": any(p.ndim > 1 for p in params), **group, "params": params}


def _trainable(method: Method) -> list[dict[str, object]]:
    return [{"params": [p for p in method.parameters() if p.requires_grad]}]
