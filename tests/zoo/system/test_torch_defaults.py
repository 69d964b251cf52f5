"""What a program sets as torch's defaults for another network changes no embedding."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from photographs import PHOTOS

import zoo
from zoo.system.torch_defaults import float32_on_cpu


@pytest.fixture
def plain_defaults() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("name", ["byol_r18_mini", "byol_r18_mini.random"])
@pytest.mark.parametrize("default", ["float64", "bfloat16", "float16", "meta"])
@pytest.mark.usefixtures("plain_defaults")
def test_embeddings_are_the_same_bytes(name: str, default: str) -> None:
    outputs = zoo.Outputs(layers=("layer3",))
    expected = zoo.load(name, device="cpu", outputs=outputs).outputs(PHOTOS[:2])
    if default == "meta":  # a device that every machine has
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(getattr(torch, default))
    found = zoo.load(name, device="cpu", outputs=outputs).outputs(PHOTOS[:2])
    for output, values in expected.items():
        assert found[output].dtype == np.float32
        assert np.array_equal(found[output], values), output
    # The caller's defaults are there again.
    assert torch.empty(0).device.type == ("meta" if default == "meta" else "cpu")
    assert torch.get_default_dtype() == (torch.float32 if default == "meta" else getattr(torch, default))


def test_without_torch_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    with float32_on_cpu():
        assert "torch" not in sys.modules
