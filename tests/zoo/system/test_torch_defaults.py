"""What a program sets as torch's defaults for another network changes no embedding."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from photographs import PHOTOS

import zoo
from zoo.system import torch_defaults
from zoo.system.torch_defaults import float32_on_cpu, full_float32


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


def test_fp32_is_full_float32_whatever_a_program_allows(request: pytest.FixtureRequest) -> None:
    """TF32, which cuDNN's convolutions have by default, and bf16 on a CPU: not while a network here runs in fp32."""
    kinds = torch_defaults._kinds()
    request.addfinalizer(lambda: torch.set_float32_matmul_precision("highest"))
    torch.set_float32_matmul_precision("medium")
    before = [kind.fp32_precision for kind in kinds]
    assert {"tf32", "bf16"} <= set(before)
    seen: list[list[str]] = []
    for precision in ("fp32", "bf16"):
        embedder = zoo.load("byol_r18_mini", device="cpu", backend="torch", precision=precision)
        network = embedder.engine.network()  # type: ignore[attr-defined]
        handle = network.register_forward_hook(lambda *_: seen.append([kind.fp32_precision for kind in kinds]))
        embedder(PHOTOS[0])
        handle.remove()
        assert [kind.fp32_precision for kind in kinds] == before
    assert seen == [["ieee"] * 5, before]


def test_the_last_thread_restores_what_the_first_one_found() -> None:
    conv = torch.backends.cudnn.conv
    assert conv.fp32_precision == "tf32"
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with full_float32():
            inside.set()
            assert leave.wait(20)

    thread = threading.Thread(target=other)
    with full_float32():
        thread.start()
        assert inside.wait(20)
    assert conv.fp32_precision == "ieee"  # the other one still computes
    leave.set()
    thread.join()
    assert conv.fp32_precision == "tf32"


def test_an_error_inside_restores_them_too() -> None:
    with pytest.raises(ZeroDivisionError), full_float32():
        _ = 1 / 0
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
