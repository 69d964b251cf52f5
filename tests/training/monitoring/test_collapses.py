"""The monitors see the collapses that papers name, and call no intact method collapsed.

Networks of two Linears on made vectors, whose two views differ by noise, trained for some hundred steps of SGD.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from training.methods import (
    BYOL,
    BarlowTwins,
    BYOLGroupNorm,
    InstDisc,
    LocalAggregation,
    Method,
    MoCoV2,
    MoCoV3,
    SimCLR,
    SimSiam,
    StepInfo,
    SwAV,
    VICReg,
)
from training.methods.byol_gn import standardise_weights
from training.methods.memory_bank import MemoryBank
from training.monitoring.online_probe import CHECK_STEPS, OnlineMonitor

STEPS = 300


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))


def byol(**options: bool) -> BYOL:
    return BYOL(encoder(), 16, hidden=32, out=16, **options)


def byol_gn(predictor: bool = True) -> BYOLGroupNorm:
    model = BYOLGroupNorm(encoder(), 16, hidden=32, out=16, predictor=predictor)
    model.replace_batch_norm(4)
    standardise_weights(model)
    return model


INTACT: dict[str, tuple[Callable[[], Method], float]] = {  # with the learning rate
    "byol": (byol, 0.05),
    "byol without BN": (byol_gn, 0.05),  # arXiv 2010.10241: BN is not what prevents it
    "simsiam": (lambda: SimSiam(encoder(), 16, hidden=8, out=16), 0.3),
    "vicreg": (lambda: VICReg(encoder(), 16, hidden=32, out=16), 0.05),
    "barlowtwins": (lambda: BarlowTwins(encoder(), 16, hidden=32, out=16, lambd=0.05), 0.05),
    "mocov3": (lambda: MoCoV3(encoder(), 16, hidden=32, out=16), 0.05),
    "simclr": (lambda: SimCLR(encoder(), 16, out=16), 0.05),
    "mocov2": (lambda: MoCoV2(encoder(), 16, out=16, queue=128, momentum=0.9), 0.05),
    "swav": (lambda: SwAV(encoder(), 16, hidden=32, out=16, prototypes=20, frozen_steps=10), 0.05),
    "instdisc": (lambda: InstDisc(encoder(), 16, MemoryBank(64, 16, negatives=20, loss="softmax")), 0.05),
    "localagg": (
        lambda: LocalAggregation(
            encoder(), 16, MemoryBank(64, 16, negatives=20, loss="softmax"), clusters=8, instance_epochs=1
        ),
        0.05,
    ),
}
BROKEN: dict[str, tuple[Callable[[], Method], float]] = {
    "byol without predictor": (lambda: byol(predictor=False), 0.05),  # BYOL table 5b
    "byol without stop-gradient": (lambda: byol(target=False), 0.05),  # BYOL table 5a
    "byol without BN and predictor": (lambda: byol_gn(predictor=False), 0.05),
    "byol without either": (lambda: byol(predictor=False, target=False), 0.05),
    "simsiam without stop-gradient": (lambda: SimSiam(encoder(), 16, hidden=8, out=16, stop_gradient=False), 0.3),
    "vicreg without variance": (lambda: VICReg(encoder(), 16, hidden=32, out=16, variance=0.0), 0.05),
}


def warnings_of(make: Callable[[], Method], rate: float, steps: int = STEPS) -> list[tuple[int, str]]:
    """Steps at which the monitor of a run warns."""
    torch.manual_seed(0)
    model = make()
    monitor = OnlineMonitor(model, dim=16, classes=0, rows=64, device=torch.device("cpu"))
    optimiser = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))  # of a method with a memory bank
    rows = [torch.arange(64)] if model.uses_rows else []
    found = []
    for step in range(steps):
        x = images if model.uses_rows else torch.randn(64, 32, generator=generator)
        views = [x + 0.5 * torch.randn(64, 32, generator=generator) for _ in range(model.views[0])]
        info = StepInfo(step, steps, step // 30, 0.9)
        model.before_step(info)
        loss = model(views, None, *rows)["loss"]
        optimiser.zero_grad()
        loss.backward()
        model.before_update(info)
        optimiser.step()
        model.after_step(info)
        monitor.after_step(step + 1, None)
        if (warning := monitor.warning()) is not None:
            found.append((step + 1, warning))
    return found


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_method_is_seen_to_collapse_once(what: str) -> None:
    ((step, warning),) = warnings_of(*BROKEN[what])
    assert "collapsed" in warning
    assert step % CHECK_STEPS == 0


@pytest.mark.parametrize("what", INTACT)
def test_an_intact_method_is_not(what: str) -> None:
    assert warnings_of(*INTACT[what]) == []
