"""Each shipped golden fails when one constant of the method changes: evidence that the comparison can fail.

Every case changes one thing in ``training`` and runs one test of ``test_official_codes``.
``pytest -rA`` lists the cases.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import test_byol_gn
import test_cmc
import test_cpc
import test_densecl
import test_infomin
import test_instdisc
import test_mocov3
import test_official_codes
import test_pirl
import test_two_views
import torch
from torch import Tensor

from training.data import augment, augment_ops
from training.engine import optim, schedules
from training.methods import (
    barlow_twins,
    byol,
    byol_gn,
    cpc,
    densecl,
    infomin,
    masked_context,
    memory_bank,
    mocov2,
    mocov3,
    simclr,
    simsiam,
    swav,
    vicreg,
)

GOLDENS = Path(__file__).parents[2] / "goldens"
BYOL, BYOL_OPS = GOLDENS / "byol_r14_free", GOLDENS / "byol_ops_free.npz"
SIMSIAM, MOCO = GOLDENS / "simsiam_r14_free", GOLDENS / "mocov2_r14_free"
MOCO_V3, DENSECL = GOLDENS / "mocov3_r14_free", GOLDENS / "densecl_r14_free"
CMC = GOLDENS / "cmc_r14_free"
INFOMIN, INSTDISC = GOLDENS / "infomin_r14_free", GOLDENS / "instdisc_r14_free"
BARLOW, VICREG = GOLDENS / "barlowtwins_r14_free", GOLDENS / "vicreg_r14_free"
SIMCLR, SWAV = GOLDENS / "simclr_ops.npz", GOLDENS / "swav_ops.npz"

Patch = pytest.MonkeyPatch
rot90 = torch.rot90


def set_argument(patch: Patch, owner: object, function: str, **values: object) -> None:
    """Call ``owner.function`` with other values; a function of the old value gives the new one."""
    original = getattr(owner, function)

    def changed(*args: object, **kwargs: object) -> object:
        new = {k: v(kwargs[k]) if callable(v) else v for k, v in values.items()}
        return original(*args, **kwargs | new)

    patch.setattr(owner, function, changed)


def tau_ends_at_999(patch: Patch) -> None:
    def target_momentum(step: int, *, base: float, total: int) -> float:
        return 0.999 - (0.999 - base) * (1 - schedules_tau(step, base=base, total=total)) / (1 - base)

    schedules_tau = schedules.target_momentum
    patch.setattr(schedules, "target_momentum", target_momentum)


def target_moves_with_half_its_rate(patch: Patch) -> None:
    def after_step(self: byol.BYOL, info: byol.StepInfo) -> None:
        after(self, byol.StepInfo(info.step, info.total_steps, info.epoch, (1 + info.tau) / 2))

    after = byol.BYOL.after_step
    patch.setattr(byol.BYOL, "after_step", after_step)


def nothing_is_excluded(patch: Patch) -> None:
    """LARS scales biases and BN parameters as it does weights."""

    def lars(method: torch.nn.Module, *, momentum: float, weight_decay: float, eta: float) -> optim.LARS:
        groups = [{"params": [p for p in method.parameters() if p.requires_grad], "weight_decay": weight_decay}]
        return optim.LARS(groups, lr=0.0, momentum=momentum, eta=eta)

    patch.setattr(optim, "lars", lars)


def one_dimension_without_decay(patch: Patch) -> None:
    """SGD without weight decay on biases and BN parameters."""

    def sgd(method: torch.nn.Module, *, momentum: float, weight_decay: float) -> torch.optim.SGD:
        optimiser = original(method, momentum=momentum, weight_decay=weight_decay)
        for group in list(optimiser.param_groups):
            small = [p for p in group["params"] if p.ndim <= 1]
            group["params"] = [p for p in group["params"] if p.ndim > 1]
            optimiser.add_param_group({**group, "params": small, "weight_decay": 0.0})
        return optimiser

    original = optim.sgd
    patch.setattr(optim, "sgd", sgd)


def predictor_follows_the_schedule(patch: Patch) -> None:
    def sgd(method: torch.nn.Module, *, momentum: float, weight_decay: float) -> torch.optim.SGD:
        optimiser = original(method, momentum=momentum, weight_decay=weight_decay)
        for group in optimiser.param_groups:
            group["predictor"] = False
        return optimiser

    original = optim.sgd
    patch.setattr(optim, "sgd", sgd)


def wider_blur(patch: Patch) -> None:
    def blur(image: Tensor, sigma: Tensor, taps: int) -> Tensor:
        return original(image, 1.01 * sigma, taps)

    original = augment_ops.blur
    patch.setattr(augment_ops, "blur", blur)


def other_mean(patch: Patch) -> None:
    patch.setattr(augment, "MEAN", (0.4851, 0.456, 0.406))


def not_normalised(patch: Patch, module: object) -> None:
    """Vectors are not brought to unit length."""
    patch.setattr(module, "unit", lambda x: x)


CASES: dict[str, tuple[Callable[[Patch], None], Callable[[], None]]] = {
    "byol: tau ends at .999": (tau_ends_at_999, partial(test_official_codes.test_byol_schedules, BYOL_OPS, 300)),
    "byol: tau": (target_moves_with_half_its_rate, partial(test_official_codes.test_byol_trajectory, BYOL)),
    "byol: LARS on biases": (nothing_is_excluded, partial(test_official_codes.test_byol_trajectory, BYOL)),
    "byol: blur's sigma": (wider_blur, partial(test_official_codes.test_byol_operation, BYOL_OPS, "blur")),
    "byol: mean of red": (other_mean, partial(test_official_codes.test_byol_trajectory, BYOL)),
    "byol: trust coefficient": (
        lambda patch: set_argument(patch, optim, "lars", eta=1.001e-3),
        partial(test_official_codes.test_byol_trajectory, BYOL),
    ),
    "byol: normalised vectors": (
        lambda patch: patch.setattr(byol, "cosine", lambda a, b, eps: (a * b).sum(-1)),
        partial(test_official_codes.test_byol_trajectory, BYOL),
    ),
    "simsiam: weight decay's exclusion": (
        one_dimension_without_decay,
        partial(test_official_codes.test_simsiam_trajectory, SIMSIAM),
    ),
    "simsiam: predictor's rate": (
        predictor_follows_the_schedule,
        partial(test_official_codes.test_simsiam_trajectory, SIMSIAM),
    ),
    "simsiam: mean of red": (other_mean, partial(test_official_codes.test_simsiam_trajectory, SIMSIAM)),
    "simsiam: momentum": (
        lambda patch: set_argument(patch, optim, "sgd", momentum=0.901),
        partial(test_official_codes.test_simsiam_trajectory, SIMSIAM),
    ),
    "simsiam: stop-gradient": (
        lambda patch: set_argument(patch, simsiam.SimSiam, "__init__", stop_gradient=False),
        partial(test_official_codes.test_simsiam_trajectory, SIMSIAM),
    ),
    "mocov2: temperature": (
        lambda patch: set_argument(patch, mocov2.MoCoV2, "__init__", temperature=0.2001),
        partial(test_official_codes.test_mocov2_trajectory, MOCO),
    ),
    "mocov2: key momentum": (
        lambda patch: set_argument(patch, mocov2.MoCoV2, "__init__", momentum=0.9001),
        partial(test_official_codes.test_mocov2_trajectory, MOCO),
    ),
    "mocov2: normalised queries and keys": (
        lambda patch: not_normalised(patch, mocov2),
        partial(test_official_codes.test_mocov2_trajectory, MOCO),
    ),
    "mocov2: weight decay's exclusion": (
        one_dimension_without_decay,
        partial(test_official_codes.test_mocov2_trajectory, MOCO),
    ),
    "simclr: temperature": (
        lambda patch: set_argument(patch, simclr.SimCLR, "__init__", temperature=lambda t: 1.001 * t),
        partial(test_official_codes.test_simclr_loss, SIMCLR),
    ),
    "simclr: normalised projections": (
        lambda patch: not_normalised(patch, simclr),
        partial(test_official_codes.test_simclr_loss, SIMCLR),
    ),
    "swav: temperature": (
        lambda patch: set_argument(patch, swav.SwAV, "__init__", temperature=0.1001),
        partial(test_official_codes.test_swav_loss, SWAV, "plain"),
    ),
    "swav: epsilon": (
        lambda patch: set_argument(patch, swav.SwAV, "__init__", epsilon=lambda e: 1.001 * e),
        partial(test_official_codes.test_swav_sinkhorn, SWAV),
    ),
    "swav: iterations": (
        lambda patch: set_argument(patch, swav.SwAV, "__init__", iterations=lambda n: n + 1),
        partial(test_official_codes.test_swav_loss, SWAV, "queue"),
    ),
}

# Methods without goldens, and some with them, are held against a second implementation in the tests.
_CPC = test_cpc.test_losses_of_training_steps_are_those_of_the_second_implementation
_MOCO_V3, _DENSECL = (
    test_mocov3.test_training_steps_are_the_official_code_s,
    test_densecl.test_training_steps_are_the_official_code_s,
)
CASES |= {
    "barlowtwins: lambda": (
        lambda patch: set_argument(patch, barlow_twins.BarlowTwins, "__init__", lambd=lambda value: 1.0001 * value),
        partial(test_two_views.test_barlow_twins_trajectory, BARLOW),
    ),
    "barlowtwins: rate of the biases": (
        lambda patch: patch.setattr(barlow_twins, "LR_BIASES", 0.00481),
        partial(test_two_views.test_barlow_twins_trajectory, BARLOW),
    ),
    "vicreg: weight of the variance": (
        lambda patch: set_argument(patch, vicreg.VICReg, "__init__", variance=25.01),
        partial(test_two_views.test_vicreg_trajectory, VICREG),
    ),
    "vicreg: trust coefficient": (
        lambda patch: set_argument(patch, optim, "lars", eta=1.001e-3),
        partial(test_two_views.test_vicreg_trajectory, VICREG),
    ),
    "instdisc: momentum of the bank": (
        lambda patch: set_argument(patch, memory_bank.MemoryBank, "__init__", momentum=lambda m: 1.0001 * m),
        partial(test_instdisc.test_trajectory, INSTDISC),
    ),
    "instdisc: temperature": (
        lambda patch: set_argument(patch, memory_bank.MemoryBank, "__init__", temperature=lambda t: 1.0001 * t),
        partial(test_instdisc.test_trajectory, INSTDISC),
    ),
    "cmc: momentum of the banks": (
        lambda patch: set_argument(patch, memory_bank.MemoryBank, "__init__", momentum=lambda m: 1.0001 * m),
        partial(test_cmc.test_trajectory, CMC),
    ),
    "pirl: momentum of the bank": (
        lambda patch: set_argument(patch, memory_bank.MemoryBank, "__init__", momentum=lambda m: 1.0001 * m),
        partial(test_pirl.test_pycontrast_trajectory, GOLDENS / "pirl_pycontrast_r14_free"),
    ),
    "infomin: beta": (
        lambda patch: set_argument(patch, infomin.InfoMin, "__init__", beta=lambda value: 1.0001 * value),
        partial(test_infomin.test_trajectory, INFOMIN),
    ),
    "infomin: key momentum": (
        lambda patch: set_argument(patch, infomin.InfoMin, "__init__", momentum=lambda m: 1.0001 * m),
        partial(test_infomin.test_trajectory, INFOMIN),
    ),
    "mocov1: temperature": (
        lambda patch: set_argument(patch, mocov2.MoCoV2, "__init__", temperature=lambda t: 1.0001 * t),
        partial(test_official_codes.test_mocov1_trajectory, GOLDENS / "mocov1_r14_free"),
    ),
    "cpc: scale of the predictions": (lambda patch: patch.setattr(masked_context, "_SCALE", 0.1001), _CPC),
    "cpc: Adam's first moment": (lambda patch: patch.setattr(cpc, "_BETAS", (0.801, 0.999)), _CPC),
    "cpc: norm of the gradient": (
        lambda patch: set_argument(patch, cpc.CPC, "__init__", clip=lambda clip: 0.5 * clip),
        _CPC,
    ),
    "cpc: direction": (lambda patch: patch.setattr(torch, "rot90", lambda x, turn, dims: rot90(x, -turn, dims)), _CPC),
    "byol_gn: epsilon of the weights": (
        lambda patch: patch.setattr(byol_gn, "_EPS", 1.1e-5),
        test_byol_gn.test_training_steps_are_the_formulas_written_out,
    ),
    "mocov3: temperature": (
        lambda patch: set_argument(patch, mocov3.MoCoV3, "__init__", temperature=0.7001),
        _MOCO_V3,
    ),
    "mocov3: normalised queries and keys": (lambda patch: not_normalised(patch, mocov3), _MOCO_V3),
    "mocov3: m ends at .999": (tau_ends_at_999, _MOCO_V3),
    "mocov3: temperature, golden": (
        lambda patch: set_argument(patch, mocov3.MoCoV3, "__init__", temperature=lambda t: 1.0001 * t),
        partial(test_mocov3.test_trajectory, MOCO_V3),
    ),
    "mocov3: m ends at .999, golden": (tau_ends_at_999, partial(test_mocov3.test_trajectory, MOCO_V3)),
    "mocov3: trust coefficient, golden": (
        lambda patch: set_argument(patch, optim, "lars", eta=1.001e-3),
        partial(test_mocov3.test_trajectory, MOCO_V3),
    ),
    "densecl: lambda, golden": (
        lambda patch: set_argument(patch, densecl.DenseCL, "__init__", dense_weight=lambda weight: 1.0001 * weight),
        partial(test_densecl.test_trajectory, DENSECL),
    ),
    "densecl: normalised queries and keys, golden": (
        lambda patch: not_normalised(patch, densecl),
        partial(test_densecl.test_trajectory, DENSECL),
    ),
    "densecl: key momentum, golden": (
        lambda patch: set_argument(patch, densecl.DenseCL, "__init__", momentum=lambda m: 1.0001 * m),
        partial(test_densecl.test_trajectory, DENSECL),
    ),
    "densecl: lambda": (
        lambda patch: set_argument(patch, densecl.DenseCL, "__init__", dense_weight=0.3001),
        _DENSECL,
    ),
    "densecl: normalised queries and keys": (lambda patch: not_normalised(patch, densecl), _DENSECL),
    "densecl: key momentum": (
        lambda patch: set_argument(patch, densecl.DenseCL, "__init__", momentum=0.9001),
        _DENSECL,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_changed_constant_fails(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, golden_test = CASES[case]
    golden_test()
    change(monkeypatch)
    with pytest.raises(AssertionError):
        golden_test()
