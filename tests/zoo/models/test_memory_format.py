from __future__ import annotations

import os
import subprocess
import sys

import torch
from torch import nn

from zoo.models.memory_format import training_format
from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder

CPU = torch.device("cpu")


def strided(channels: int, kernel: int = 1, stride: int = 2, groups: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 32, kernel, stride, groups=groups))


def test_a_network_that_onednn_trains_wrongly_in_channels_last_is_contiguous_on_a_cpu() -> None:
    assert training_format(strided(8), CPU) == torch.contiguous_format
    assert training_format(strided(8), torch.device("cuda")) == torch.channels_last
    for right in (strided(16), strided(8, kernel=3), strided(8, stride=1), nn.GroupNorm(1, 8)):
        assert training_format(right, CPU) == torch.channels_last
    assert training_format(nn.GroupNorm(2, 8), CPU) == torch.contiguous_format


def test_the_published_networks_are_fast() -> None:
    for name in ("r10", "r18", "r50", "cmc_r50"):
        with torch.device("meta"):
            network = build_encoder(ARCHITECTURES[name])
        assert training_format(network, CPU) == torch.channels_last, name


BACKWARD = """
import torch
from torch import nn
from zoo.models.memory_format import training_format
torch.manual_seed(0)
def gradient(layer, x):
    layer.zero_grad()
    layer(x).square().sum().backward()
    return layer.weight.grad.flatten().double()
for channels in (2, 4, 8, 12, 16):
    layer, x = nn.Conv2d(channels, 64, 1, 2, bias=False), torch.randn(8, channels, 14, 14)
    exact = nn.Conv2d(channels, 64, 1, 2, bias=False).double()
    exact.load_state_dict(layer.state_dict())
    expected = gradient(exact, x.double())
    layout = training_format(layer, torch.device("cpu"))
    for _ in range(20):
        found = gradient(layer.to(memory_format=layout), x.contiguous(memory_format=layout))
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max(), channels
"""


def test_gradients_are_those_of_float64() -> None:
    """In a process of its own, whose memory glibc checks: oneDNN's fault ends it, or gives other gradients."""
    environment = os.environ | {"MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
    done = subprocess.run([sys.executable, "-c", BACKWARD], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
