"""Initial weights have the distributions of the official codes."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch
from tiny_runs import tiny
from torch import Tensor, nn

from training.methods import BYOL, build_method
from training.methods.initialise import initialise
from training.recipes.config import Heads


def in_deviations(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weights times sqrt(fan_in)."""
    return layer.weight.detach() * sqrt(layer.weight[0].numel())


@pytest.mark.parametrize(("how", "std", "largest"), [("haiku", 0.8796, 2.0), ("tensorflow", 1.0, 2.2737)])
def test_convolutions_are_cut_normals(how: str, std: float, largest: float) -> None:
    """haiku cuts at two deviations without widening; TensorFlow's VarianceScaling widens by 1 / .8796."""
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 64, 3)
    initialise(layer, how)
    weights = in_deviations(layer)
    assert abs(float(weights.std()) - std) < 0.01
    assert 0.97 * largest < float(weights.abs().max()) <= largest * (1 + 1e-4)
    assert float(layer.bias.detach().abs().max()) == 0


def test_linears_are_haiku_s_only_and_timm_changes_nothing() -> None:
    torch.manual_seed(0)
    for how, changed in (("haiku", True), ("tensorflow", False), ("timm", False)):
        layer = nn.Linear(400, 300)
        before = layer.weight.detach().clone()
        initialise(layer, how)
        assert torch.equal(layer.weight, before) != changed
    layer = nn.Linear(400, 300)
    initialise(layer, "haiku")
    assert abs(float(in_deviations(layer).std()) - 0.8796) < 0.01


def test_byol_s_target_is_drawn_anew_and_bn_keeps_its_ones() -> None:
    recipe = replace(tiny("byol"), initialiser="haiku", architecture="r10", heads=Heads(hidden=64, out=32))
    method = build_method(recipe)
    assert isinstance(method, BYOL)
    assert method.target_encoder is not None
    assert method.target_projector is not None
    for online, target in ((method.encoder, method.target_encoder), (method.projector, method.target_projector)):
        for (name, p), q in zip(online.named_parameters(), target.parameters(), strict=True):
            assert torch.equal(p, q) == (p.ndim == 1), name
    for part in (method.encoder, method.projector, method.predictor, method.target_encoder, method.target_projector):
        for layer in part.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                assert float(in_deviations(layer).abs().max()) <= 2.0001
