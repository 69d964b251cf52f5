"""The monitors call no intact method collapsed that needs images, and see an encoder that is blind.

Networks of two convolutions on 32 made images of 12 to 24 pixels, whose views differ by noise, trained by SGD; the
methods that learn from vectors are in ``test_collapses``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.methods import CMC, CPC, PIRL, DenseCL, InfoMin, Method, StepInfo
from training.methods.memory_bank import MemoryBank
from training.monitoring.collapse import collapsed, effective_rank, least_spread, output_spread, vanished
from training.monitoring.online_probe import OnlineMonitor
from zoo.models.colour_split import SplitEncoder
from zoo.transforms.preprocess import IMAGENET_MEAN, IMAGENET_STD

IMAGES, DIM, STEPS = 32, 16, 100  # four checks


def encoder(channels: int = 3, dim: int = DIM, *, bn: bool = True) -> nn.Sequential:
    """As the papers' networks, with BN after each convolution; CPC's has layer norm."""
    norms = (nn.BatchNorm2d(size) if bn else nn.GroupNorm(1, size) for size in (16, dim))
    first = nn.Conv2d(channels, 16, 3, stride=2, padding=1), next(norms), nn.ReLU()
    second = nn.Conv2d(16, dim, 3, stride=2, padding=1), next(norms), nn.ReLU()
    return nn.Sequential(*first, *second, SelectAdaptivePool2d(flatten=True))


def bank(loss: str) -> MemoryBank:
    return MemoryBank(IMAGES, 8, negatives=12, loss=loss, temperature=0.1)


def cpc() -> CPC:
    options = {"patch": 8, "stride": 4, "first_step": 1, "last_step": 2, "layers": 2}
    return CPC(encoder(bn=False), DIM, out=8, hidden=16, clip=1.0, **options)


def cmc(loss: str) -> CMC:
    split = SplitEncoder(encoder(1, DIM // 2), encoder(2, DIM // 2), "lab")
    return CMC(split, DIM, bank(loss), bank(loss))


KEYS = {"out": 8, "queue": 64, "momentum": 0.9}
INTACT: dict[str, tuple[Callable[[], Method], tuple[int, ...], float]] = {  # with the views' sides and the rate
    "cmc": (lambda: cmc("softmax"), (12,), 0.05),
    "cmc with nce": (lambda: cmc("nce"), (12,), 0.003),
    "pirl": (lambda: PIRL(encoder(), DIM, bank("softmax"), code="vissl"), (12, 24), 0.05),
    "pirl as in pycontrast": (lambda: PIRL(encoder(), DIM, bank("softmax"), code="pycontrast"), (12, 24), 0.05),
    "infomin": (lambda: InfoMin(encoder(), DIM, **KEYS), (12, 12, 24), 0.05),
    "cpc": (cpc, (16,), 0.05),
    "densecl": (lambda: DenseCL(encoder(), DIM, **KEYS), (12, 12), 0.05),
}


def made_images(side: int) -> Tensor:
    """Blots of colour, each image its own: [IMAGES, 3, side, side]."""
    small = torch.randn(IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return interpolate(small, size=side, mode="bilinear")


def warned_at(model: Method, sides: tuple[int, ...], rate: float) -> list[int]:
    """Steps at which the monitor of a run warns."""
    monitor = OnlineMonitor(model, dim=DIM, classes=0, rows=IMAGES, device=torch.device("cpu"))
    optimiser = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=rate, momentum=0.9)
    generator, found = torch.Generator().manual_seed(0), []
    rows = [torch.arange(IMAGES)] if model.uses_rows else []
    images = [made_images(side) for side in sides]
    for step in range(STEPS):
        views = [x + 0.3 * torch.randn(x.shape, generator=generator) for x in images]
        info = StepInfo(step, STEPS, step // 30, 0.9)
        model.before_step(info)
        optimiser.zero_grad()
        torch.stack(list(model(views, None, *rows).values())).sum().backward()
        model.before_update(info)
        optimiser.step()
        model.after_step(info)
        monitor.after_step(step + 1, None)
        if monitor.warning() is not None:
            found.append(step + 1)
    return found


@pytest.mark.parametrize("what", INTACT)
def test_an_intact_method_is_not_called_collapsed(what: str) -> None:
    torch.manual_seed(0)
    make, sides, rate = INTACT[what]
    assert warned_at(make(), sides, rate) == []


@pytest.mark.parametrize("what", INTACT)
def test_a_blind_encoder_is(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its features are the same for all images, whatever the heads learn: the second check says so."""
    torch.manual_seed(0)
    monkeypatch.setattr(f"{__name__}.STEPS", 50)
    make, sides, rate = INTACT[what]
    model = make()
    for layer in model.encoder.modules():
        if isinstance(layer, SelectAdaptivePool2d):
            layer.register_forward_hook(lambda module, inputs, output: output * 0 + 1)
    assert warned_at(model, sides, rate) == [50]


def test_what_all_targets_of_cpc_have_in_common_is_no_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss is the same, so that nothing trains the common part away: an untrained ResNet-50 has a large one."""
    torch.manual_seed(0)
    monkeypatch.setattr(f"{__name__}.STEPS", 50)
    model, view, rows = cpc(), made_images(16), torch.arange(IMAGES)
    before = model([view], None, rows)["loss"]
    with torch.no_grad():
        model.projector[-1].bias.fill_(1.0)
        outputs = model.projector(model.encoder(view))
        torch.testing.assert_close(model([view], None, rows)["loss"], before)
    spread, rank = output_spread(outputs), effective_rank(outputs)
    assert 0.01 < spread < 0.1
    assert not collapsed(spread, rank, least_spread(model))
    assert warned_at(model, (16,), 0.01) == []


def test_cmc_on_gray_images_is_seen_to_have_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the outputs is one vector; the other half keeps spread and rank of the whole up."""
    torch.manual_seed(0)
    monkeypatch.setattr(f"{__name__}.STEPS", 50)
    gray = convert_to_gray(made_images(12))
    model = cmc("softmax")
    with torch.no_grad():
        outputs = model.projector(model.encoder(gray))
    assert not collapsed(output_spread(outputs), effective_rank(outputs))
    assert vanished(model, outputs)
    assert not vanished(model, model.projector(model.encoder(made_images(12))))
    monkeypatch.setattr(f"{__name__}.made_images", lambda side: gray)
    model.encoder.second.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))  # the views' noise
    assert warned_at(model, (12,), 0.05) == [50]


def convert_to_gray(images: Tensor) -> Tensor:
    """Normalised RGB of equal red, green and blue."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images * std + mean).mean(1, keepdim=True) - mean) / std
