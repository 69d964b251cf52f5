"""Optimisers against their formulas, step by step; schedules at their ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.data.sampler import EpochSampler
from training.engine import schedules
from training.engine.optim import LARC, build_optimiser
from training.engine.schedules import learning_rate, tau
from training.recipes.config import Optim
from training.recipes.table import find
from zoo.numerics.lars import LARS


def gradients(shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_larc_is_its_formula_for_biases_too() -> None:
    for shape in ((3, 2), (2,)):
        p = nn.Parameter(torch.ones(shape, dtype=torch.float64))
        optimiser, expected = LARC([p], lr=0.0, momentum=0.9, weight_decay=0.1), p.detach().clone()
        m = torch.zeros_like(expected)
        for lr, g in zip((0.5, 0.3, 0.2), gradients(shape), strict=True):
            optimiser.param_groups[0]["lr"] = lr
            p.grad = g.clone()
            optimiser.step()
            rate = 1e-3 * expected.norm() / (g.norm() + 0.1 * expected.norm() + 1e-8)
            m = 0.9 * m + (g + 0.1 * expected) * rate
            expected = expected - lr * m
            assert torch.allclose(p, expected, rtol=1e-12)


def test_larc_gives_a_zero_parameter_its_plain_gradient() -> None:
    p = nn.Parameter(torch.zeros(2))
    optimiser = LARC([p], lr=0.5, momentum=0.0, weight_decay=0.1)
    p.grad = torch.ones(2)
    optimiser.step()
    assert torch.allclose(p, torch.full((2,), -0.5))


def test_simclrs_lars_has_the_rate_inside_the_momentum() -> None:
    p = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimiser = LARS([p], lr=0.0, weight_decay=0.1, classic_momentum=True)
    expected, m = p.detach().clone(), torch.zeros_like(p)
    for lr, g in zip((0.5, 0.3, 0.0), gradients((3, 2)), strict=True):
        optimiser.param_groups[0]["lr"] = lr
        p.grad = g.clone()
        optimiser.step()
        g = g + 0.1 * expected
        m = 0.9 * m + lr * 1e-3 * expected.norm() / g.norm() * g
        expected = expected - m
        assert torch.allclose(p, expected, rtol=1e-12)


def test_a_lars_state_from_before_the_option_still_loads() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    state = LARS([p], lr=0.1).state_dict()
    del state["param_groups"][0]["classic_momentum"]
    optimiser = LARS([p], lr=0.1)
    optimiser.load_state_dict(state)
    p.grad = torch.ones(2, 2)
    optimiser.step()
    assert (p < 1).all()


def test_every_optimiser_name_is_built() -> None:
    from training.methods import SimSiam

    method = SimSiam(nn.Linear(4, 4), 4, out=4, hidden=2)
    for name in ("lars", "lars_classic", "larc", "sgd", "adamw"):
        optimiser = build_optimiser(method, Optim(name=name))
        held = sum(p.numel() for g in optimiser.param_groups for p in g["params"])
        assert held == sum(p.numel() for p in method.parameters() if p.requires_grad), name


def rates(name: str, at: Callable[[EpochSampler], list[int]]) -> list[float]:
    """Of a published run on ImageNet, at these steps."""
    optim = find(name).optim
    epochs = EpochSampler(1_281_167, optim.batch_size, optim.drop_last)
    return [learning_rate(optim, step, epochs) for step in at(epochs)]


def test_swav_s_rates_are_the_official_ones() -> None:
    """4.8 and .0048 at batch 4096, from .3; numpy.linspace reaches the peak in the last warm-up step."""
    first, peak, last = rates("swav_r50_in1k_800ep", lambda e: [0, e.steps(10) - 1, e.steps(800) - 1])
    assert (first, peak) == pytest.approx((0.3, 4.8))
    assert last == pytest.approx(0.0048, rel=1e-3)
    first, last = rates("swav_r50_in1k_200ep_b256", lambda e: [0, e.steps(200) - 1])
    assert first == pytest.approx(0.6)
    assert last == pytest.approx(0.0006, rel=1e-3)
    assert rates("swav_r50x4_in1k_400ep", lambda e: [e.steps(10) - 1]) == pytest.approx([4.8])


def test_the_others_rates_are_the_published_ones() -> None:
    assert rates("simclr_r50_in1k_1000ep", lambda e: [e.steps(10)]) == pytest.approx([4.8])
    assert rates("byol_r50_in1k_300ep", lambda e: [0, e.steps(10)]) == pytest.approx([0, 4.8])
    assert rates("byol_r50_in1k_1000ep_b512", lambda e: [e.steps(10)]) == pytest.approx([0.8])
    assert rates("mocov2_r50_in1k_200ep", lambda e: [0, e.steps(100)]) == pytest.approx([0.03, 0.015])
    decayed = rates("supervised_r50_in1k_90ep", lambda e: [e.steps(29), e.steps(30), e.steps(60)])
    assert decayed == pytest.approx([0.1, 0.01, 0.001])


def test_tau_can_stay() -> None:
    optim = Optim(tau=0.0, constant_tau=True)
    assert [tau(optim, step, 10) for step in (0, 5, 10)] == [0.0, 0.0, 0.0]
    annealed = [tau(replace(optim, constant_tau=False), step, 10) for step in (0, 10)]
    assert annealed == pytest.approx([0, 1])


def test_swav_warm_up_of_one_step_or_none() -> None:
    fixed = {"start": 0.1, "base": 1.0, "final": 0.0, "batch_size": 256, "total": 10}
    assert schedules.swav_cosine(0, warmup=1, **fixed) == pytest.approx(0.1)
    assert schedules.swav_cosine(0, warmup=0, **fixed) == pytest.approx(1.0)
