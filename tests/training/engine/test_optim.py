"""Optimisers against their formulas, step by step; schedules at their ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_runs import METHODS, tiny
from torch import Tensor, nn

from training.data.sampler import EpochSampler
from training.engine import schedules
from training.engine.optim import LARC, build_optimiser, set_learning_rate
from training.engine.schedules import learning_rate, tau
from training.methods import SimSiam, build_method
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


@pytest.mark.parametrize("method", METHODS)
def test_every_optimiser_trains_each_parameter_once_and_decays_all_matrices(method: str) -> None:
    model = build_method(tiny(method), 44)
    for name in ("lars", "lars_classic", "larc", "sgd", "adamw"):
        optimiser = build_optimiser(model, Optim(name=name, weight_decay=0.1))  # type: ignore[arg-type]
        grouped = [(p, group) for group in optimiser.param_groups for p in group["params"]]
        assert sorted(id(p) for p, _ in grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
        assert {g.get("larc_weight_decay", g["weight_decay"]) for p, g in grouped if p.ndim > 1} == {0.1}, name
        if name.startswith("lars") and method != "cpc":  # whose official optimiser is Adam, with one group
            assert {g["adapt"] for p, g in grouped if p.ndim > 1} == {True}
            assert not any(g["adapt"] for p, g in grouped if p.ndim <= 1), name


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
    method = SimSiam(nn.Linear(4, 4), 4, out=4, hidden=2)
    for name in ("lars", "lars_classic", "larc", "sgd", "adamw"):
        optimiser = build_optimiser(method, Optim(name=name))
        assert {group["lr"] for group in optimiser.param_groups} == {0.0}, "the loop sets the rate of each step"
        held = sum(p.numel() for g in optimiser.param_groups for p in g["params"])
        assert held == sum(p.numel() for p in method.parameters() if p.requires_grad), name


def with_bn() -> SimSiam:
    """An encoder with a bias and BN, so that the groups differ."""
    return SimSiam(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), 4, out=4, hidden=2)


def trained(method: SimSiam) -> set[str]:
    return {name for name, p in method.named_parameters() if p.requires_grad}  # without the projector's last bias


def names_of(method: SimSiam, group: dict[str, Any]) -> set[str]:
    names = {id(p): name for name, p in method.named_parameters()}
    return {names[id(p)] for p in group["params"]}


@pytest.mark.parametrize("name", ["lars", "lars_classic"])
def test_lars_leaves_biases_and_bn_as_they_are(name: str) -> None:
    """[B] 3.3: neither weight decay nor a trust ratio."""
    method = with_bn()
    layers, rest = build_optimiser(method, Optim(name=name, weight_decay=0.5, momentum=0.7)).param_groups
    assert names_of(method, layers) == {n for n, p in method.named_parameters() if p.ndim == 2}
    assert names_of(method, layers) | names_of(method, rest) == trained(method)
    assert (layers["weight_decay"], layers["adapt"]) == (0.5, True)
    assert (rest["weight_decay"], rest["adapt"]) == (0.0, False)
    for group in (layers, rest):
        assert (group["momentum"], group["eta"], group["classic_momentum"]) == (0.7, 1e-3, name == "lars_classic")


def test_sgd_and_larc_decay_all_parameters_and_only_the_predictor_can_stay_constant() -> None:
    method = with_bn()
    optim = Optim(name="sgd", lr=0.05, batch_size=512, weight_decay=1e-4, momentum=0.8, fixed_predictor_lr=True)
    optimiser = build_optimiser(method, optim)
    assert [(g["weight_decay"], g["momentum"], g["nesterov"]) for g in optimiser.param_groups] == [
        (1e-4, 0.8, False)
    ] * 2
    rest, predictor = (names_of(method, group) for group in optimiser.param_groups)
    assert predictor == {name for name in trained(method) if name.startswith("predictor.")}
    assert rest | predictor == trained(method)
    for config, expected in ((optim, [0.01, 0.1]), (replace(optim, fixed_predictor_lr=False), [0.01, 0.01])):
        set_learning_rate(optimiser, config, 0.01)
        assert [group["lr"] for group in optimiser.param_groups] == pytest.approx(expected)
    (group,) = build_optimiser(method, replace(optim, name="larc")).param_groups
    assert (group["larc_weight_decay"], group["eta"], group["momentum"], group["weight_decay"]) == (1e-4, 1e-3, 0.8, 0)
    assert names_of(method, group) == trained(method)
    (group,) = build_optimiser(method, replace(optim, name="adamw")).param_groups
    assert (group["weight_decay"], names_of(method, group)) == (1e-4, trained(method))


@pytest.mark.parametrize("kind", [LARS, LARC])
def test_zero_norms_and_missing_gradients_are_no_division(kind: type[LARS | LARC]) -> None:
    """A zero gradient of a non-zero parameter leaves LARC's decay out, as NVIDIA's code does; LARS has factor 1."""
    still, unused = nn.Parameter(torch.full((2, 2), 2.0)), nn.Parameter(torch.ones(2, 2))
    moves = nn.Parameter(torch.ones(2, 2))
    optimiser = kind([unused, still, moves], lr=0.5, momentum=0.0, weight_decay=0.0)
    still.grad, moves.grad = torch.zeros(2, 2), torch.ones(2, 2)
    optimiser.step()
    assert torch.allclose(moves.detach(), torch.full((2, 2), 1 - 0.5 * 1e-3))
    assert torch.equal(still.detach(), torch.full((2, 2), 2.0))
    assert torch.equal(unused.detach(), torch.ones(2, 2))
    with pytest.raises(TypeError, match="takes no closure"):
        optimiser.step(lambda: 0.0)


def test_the_defaults_are_the_codes() -> None:
    for kind, decay in ((LARS, "weight_decay"), (LARC, "larc_weight_decay")):
        (group,) = kind([nn.Parameter(torch.ones(2))], lr=0.1).param_groups
        assert (group["momentum"], group[decay], group["eta"]) == (0.9, 0.0, 1e-3)
    (group,) = LARS([nn.Parameter(torch.ones(2))], lr=0.1).param_groups
    assert (group["adapt"], group["classic_momentum"]) == (True, False)


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


def test_schedules_between_their_ends() -> None:
    """A cosine's value is (1 + cos 60 degrees) / 2 = .75 after a third, and .25 after two."""
    step = {"base": 0.3, "batch_size": 512, "total": 40, "warmup": 10}
    found = [schedules.warmup_cosine(n, **step) for n in (0, 5, 10, 20, 30, 40)]
    assert found == pytest.approx([0, 0.3, 0.6, 0.45, 0.15, 0])
    swav = {"start": 0.1, "base": 1.0, "final": 0.2, "batch_size": 512, "total": 40, "warmup": 10}
    found = [schedules.swav_cosine(n, **swav) for n in (0, 3, 9, 10, 20, 30, 40)]
    assert found == pytest.approx([0.2, 0.8, 2, 2, 0.4 + 0.75 * 1.6, 0.4 + 0.25 * 1.6, 0.4])
    assert schedules.swav_cosine(1, **swav | {"warmup": 2}) == pytest.approx(2)
    by_epoch = [schedules.cosine_by_epoch(n, base=0.03, batch_size=512, epochs=30) for n in (0, 10, 20)]
    assert by_epoch == pytest.approx([0.06, 0.045, 0.015])
    decay = [schedules.step_decay(n, base=0.1, batch_size=512, every=30) for n in (0, 29, 30, 59, 60)]
    assert decay == pytest.approx([0.2, 0.2, 0.02, 0.02, 0.002])
    assert [schedules.target_momentum(n, base=0.9, total=30) for n in (0, 10, 20, 30)] == pytest.approx(
        [0.9, 0.925, 0.975, 1]
    )


def test_tau_can_stay() -> None:
    optim = Optim(tau=0.0, constant_tau=True)
    assert [tau(optim, step, 10) for step in (0, 5, 10)] == [0.0, 0.0, 0.0]
    annealed = [tau(replace(optim, constant_tau=False), step, 10) for step in (0, 10)]
    assert annealed == pytest.approx([0, 1])


def test_swav_warm_up_of_one_step_or_none() -> None:
    fixed = {"start": 0.1, "base": 1.0, "final": 0.0, "batch_size": 256, "total": 10}
    assert schedules.swav_cosine(0, warmup=1, **fixed) == pytest.approx(0.1)
    assert schedules.swav_cosine(0, warmup=0, **fixed) == pytest.approx(1.0)


def one_parameter_at_a_time(optimiser: LARS) -> None:
    """The step as it was before all parameters of a group were updated at once."""
    for group in optimiser.param_groups:
        for p in group["params"]:
            if p.grad is None:
                continue
            g = p.grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
            if group["adapt"]:
                p_norm, g_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(g)
                g = g * torch.where((p_norm > 0) & (g_norm > 0), group["eta"] * p_norm / g_norm, 1.0)
            if group["classic_momentum"]:
                g = g * group["lr"]
            state = optimiser.state[p]
            if "momentum" in state:
                state["momentum"].mul_(group["momentum"]).add_(g)
            else:
                state["momentum"] = g.clone()
            p.add_(state["momentum"], alpha=-1 if group["classic_momentum"] else -group["lr"])


@pytest.mark.parametrize("classic", [False, True])
def test_all_parameters_at_once_are_updated_to_the_same_bits(classic: bool) -> None:
    def made() -> tuple[list[torch.Tensor], LARS]:
        torch.manual_seed(0)
        shapes = [(64, 3, 7, 7), (512, 300), (1000,), (), (7, 1), (33,), (5, 5)]
        params = [torch.randn(shape).requires_grad_() for shape in shapes]
        with torch.no_grad():
            params[4].zero_()  # a trust ratio of 1
        groups = [{"params": params[:5], "weight_decay": 1e-4}, {"params": params[5:], "adapt": False}]
        return params, LARS(groups, lr=0.3, classic_momentum=classic)

    (ours, optimiser), (theirs, reference) = made(), made()
    for step in range(5):
        for number, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + number))
            skipped = number == 1 and step < 2  # its momentum begins later
            p.grad, q.grad = (None, None) if skipped else (gradient.clone(), gradient.clone())
        optimiser.step()
        with torch.no_grad():
            one_parameter_at_a_time(reference)
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p, q)
    assert all(
        torch.equal(optimiser.state[p]["momentum"], reference.state[q]["momentum"])
        for p, q in zip(ours, theirs, strict=True)
    )
