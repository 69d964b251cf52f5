"""Stages of every kind of ResNet in the registry, dilation, batch statistics."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from zoo.errors import UserError
from zoo.evaluate.dense.backbone import dilate, out_channels, split_stages, stage_strides, update_bn_stats
from zoo.evaluate.dense.schedules import DETECTION
from zoo.evaluate.depth.depth import DepthNet
from zoo.evaluate.detection.rcnn import RCNN
from zoo.evaluate.segmentation.segmentation import FCN
from zoo.models.registry import ARCHITECTURES, Architecture
from zoo.models.resnet import build_encoder

# one block a stage: the kinds of the registry without their depth
KINDS = {
    "resnet18": ARCHITECTURES["r18"],
    "resnet50": Architecture("resnet50", 2048, 0, {"layers": [1, 1, 1, 1]}),
    "same padding": Architecture("resnetv2_50", 2048, 0, {"preact": False, "layers": [1, 1, 1, 1]}, padding="same"),
    "width 2": Architecture(
        "resnetv2_50", 4096, 0, {"preact": False, "layers": [1, 1, 1, 1], "width_factor": 2}, padding="symmetric"
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return build_encoder(KINDS[request.param]).eval()


@torch.no_grad()
def test_the_stages_are_the_encoder(encoder: nn.Module) -> None:
    stem, layers = split_stages(encoder)
    x = torch.randn(1, 3, 65, 96)
    y = stem(x)
    for layer in layers:
        y = layer(y)
    assert torch.equal(y, encoder.forward_features(x))  # type: ignore[operator]
    assert stage_strides(stem, layers) == [4, 8, 16, 32]
    assert out_channels(layers[-1]) == encoder.num_features == y.shape[1]
    assert not any(p.grad is not None for p in encoder.parameters())


@torch.no_grad()
@pytest.mark.parametrize("encoder", [k for k in KINDS if k != "width 2"], indirect=True)  # large, and nothing new
def test_every_network_stands_on_it(encoder: nn.Module) -> None:
    x = torch.randn(2, 3, 64, 48)
    fcn = FCN(copy.deepcopy(encoder), 5, width=8, dilation=2).eval()
    assert fcn.backbone(x).shape[2:] == (4, 3)  # the last stage keeps stride 16
    assert fcn(x).shape == (2, 5, 64, 48)
    assert DepthNet(copy.deepcopy(encoder), (8, 8, 4, 4)).eval()(x).shape == (2, 64, 48)
    network = RCNN(copy.deepcopy(encoder), 3, replace(DETECTION["small"], proposals=(8, 4)), masks=True).eval()
    found = network([x[0], x[1, :, :40, :33]])[0]
    assert len(found) == 2
    for one, (height, width) in zip(found, ((64, 48), (40, 33)), strict=True):
        assert one["masks"].shape == (len(one["boxes"]), 1, 8, 8)
        assert bool((one["boxes"] <= torch.tensor([width, height] * 2)).all())


@torch.no_grad()
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_dilated_convolution_sees_what_it_saw(padding: str) -> None:
    """Stride 1 and dilation 2 over a map of stride 2 spread out again: the old values, at every second place."""
    from timm.layers.create_conv2d import create_conv2d

    torch.manual_seed(0)
    same = create_conv2d(4, 4, 3, stride=2, padding="same" if padding == "same" else None)
    plain = copy.deepcopy(same)
    plain.stride = (1, 1)
    if plain.padding != (0, 0):
        plain.padding = (1, 1)
    dilated = copy.deepcopy(same)
    dilate(nn.Sequential(dilated))
    x = torch.randn(1, 4, 6, 6)
    spread = torch.zeros(1, 4, 12, 12)
    spread[:, :, ::2, ::2] = x
    torch.testing.assert_close(dilated(spread)[:, :, ::2, ::2], plain(x))


def test_another_network_is_refused() -> None:
    import timm

    with pytest.raises(UserError, match="need a ResNet"):
        split_stages(timm.create_model("resnetv2_50", layers=(1, 1, 1, 1)))  # pre-activation: its last norm comes later
    with pytest.raises(UserError, match="need a ResNet"):
        split_stages(nn.Linear(2, 2))


def test_precise_statistics_are_the_mean_over_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    batches = torch.randn(5, 8, 3, 4, 4)
    with torch.no_grad():
        mean = torch.stack([model[0](b).mean((0, 2, 3)) for b in batches]).mean(0)
    update_bn_stats(model, lambda n: model(batches[n]), 5)
    torch.testing.assert_close(model[1].running_mean, mean)
    assert model[1].momentum == 0.1
    before = model[1].running_mean.clone()
    update_bn_stats(model.eval(), lambda n: model(batches[n]), 5)  # a frozen norm stays as it is
    assert torch.equal(model[1].running_mean, before)


def test_frozen_parts_stay_frozen_after_train() -> None:
    network = RCNN(build_encoder(ARCHITECTURES["r18"]), 2, DETECTION["small-frozen"], masks=False).train()
    assert not any(m.training for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(p.requires_grad for p in network.backbone.parameters())
    assert any(p.requires_grad for p in network.heads.last.parameters())
    tuned = RCNN(build_encoder(ARCHITECTURES["r18"]), 2, DETECTION["small"], masks=False).train()
    assert all(m.training for m in tuned.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(p.requires_grad for p in tuned.parameters())
