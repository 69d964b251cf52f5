"""The encoders are the papers' networks."""

from __future__ import annotations

import pytest
import torch

from zoo.models.key_mapping import torchvision_to_resnetv2
from zoo.models.registry import ARCHITECTURES, Architecture
from zoo.models.resnet import build_encoder, count_parameters

PAPER_MILLIONS = {"r50": 23.508, "r50x2": 93.907, "r50x4": 375.378, "r200": 62.625, "r200x2": 250.129}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameter_count(name: str) -> None:
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):  # shapes without memory: r50x4 has 1.5 GB
        encoder = build_encoder(architecture)
    assert count_parameters(encoder) == architecture.parameters
    assert encoder.num_features == architecture.num_features
    if name in PAPER_MILLIONS:
        assert round(architecture.parameters / 1e6, 3) == PAPER_MILLIONS[name]


def test_the_width_is_on_every_channel() -> None:
    with torch.device("meta"):
        encoder = build_encoder(ARCHITECTURES["r50x2"])
    assert encoder.stem.conv.weight.shape[0] == 128
    assert encoder(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 4096)


def test_both_spellings_of_resnet50_are_one_network() -> None:
    torch.manual_seed(0)
    plain = build_encoder(ARCHITECTURES["r50"]).eval()
    other = build_encoder(Architecture("resnetv2_50", 2048, 0, {"preact": False})).eval()
    other.load_state_dict(torchvision_to_resnetv2(plain.state_dict()))
    x = torch.randn(2, 3, 65, 70)
    with torch.no_grad():
        assert torch.equal(plain(x), other(x))


def test_zero_init_residual_makes_blocks_identities() -> None:
    small = Architecture("resnet18", 512, 11_176_512)
    assert not build_encoder(small, zero_init_residual=True).layer1[0].bn2.weight.any()
    assert build_encoder(small, zero_init_residual=False).layer1[0].bn2.weight.all()


def test_torchvision_loads_the_same_keys() -> None:
    from torchvision.models import resnet50

    theirs = {k for k in resnet50().state_dict() if not k.startswith("fc.")}
    assert set(build_encoder(ARCHITECTURES["r50"]).state_dict()) == theirs
