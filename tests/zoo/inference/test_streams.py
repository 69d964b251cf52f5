"""Batches overlap on lanes: in order, each in its own slot, on a CPU by queues as on a GPU by streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.inference import streams
from zoo.inference.streams import CudaLane, QueueLane, TorchSlot, embed_overlapped, overlapped
from zoo.inference.torch_backend import TorchEngine


class Watched:
    """A slot that computes means, and records what happens in it."""

    def __init__(self, log: list[tuple[str, int]], gates: dict[str, threading.Event] | None = None) -> None:
        self._log, self._gates = log, gates or {}
        self._steps = ["fill"]

    def _step(self, name: str, before: str) -> None:
        assert self._steps[-1] == before, "a step of this batch ran too early"
        self._steps.append(name)
        self._log.append((name, self._number))

    def fill(self, pixels: Any) -> None:
        self._steps, self._host, self._number = ["fill"], pixels.copy(), int(pixels.flat[0])
        self._log.append(("fill", self._number))

    def upload(self) -> None:
        self._step("upload", "fill")
        self._device = self._host.copy()

    def compute(self) -> None:
        if gate := self._gates.get("compute"):
            assert gate.wait(20)
        self._step("compute", "upload")
        self._out = self._device.mean((1, 2))

    def download(self) -> None:
        self._step("download", "compute")
        self._back = self._out

    def result(self) -> Any:
        assert self._steps == ["fill", "upload", "compute", "download"]
        return self._back.astype(np.float32)


def numbered(count: int, size: int = 4) -> Iterator[Any]:
    for number in range(count):
        yield np.full((2 if number < count - 1 else 1, size, size, 3), number, np.uint8)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 20])
def test_results_come_in_order_and_none_is_mixed(count: int, slots: int) -> None:
    log: list[tuple[str, int]] = []
    found = list(overlapped(numbered(count), [Watched(log) for _ in range(slots)]))
    assert [values[0, 0] for values in found] == list(range(count))
    assert [len(values) for values in found] == [*[2] * (count - 1), 1][:count]
    assert len(log) == 4 * count


def test_later_batches_are_uploaded_while_the_network_runs() -> None:
    log: list[tuple[str, int]] = []
    gate = threading.Event()
    results = overlapped(numbered(6), [Watched(log, {"compute": gate}) for _ in range(3)])
    first: list[Any] = []
    reader = threading.Thread(target=lambda: first.append(next(results)))
    reader.start()
    for _ in range(2000):  # the network has not begun, and three batches are there
        if sum(step == "upload" for step, _ in log) == 3:
            break
        threading.Event().wait(0.01)
    assert [entry for entry in log if entry[0] != "fill"] == [("upload", 0), ("upload", 1), ("upload", 2)]
    gate.set()
    reader.join(20)
    assert [values[0, 0] for values in [*first, *results]] == list(range(6))


def test_an_error_in_a_step_reaches_the_caller_and_ends_the_lanes() -> None:
    class Broken(Watched):
        def compute(self) -> None:
            super().compute()
            if self._number == 2:
                raise RuntimeError("out of memory")

    before = threading.active_count()
    found: list[Any] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        found.extend(overlapped(numbered(6), [Broken([]) for _ in range(3)]))
    assert [values[0, 0] for values in found] == [0, 1]
    assert threading.active_count() == before


def test_a_caller_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    results = overlapped(numbered(50), [Watched([]) for _ in range(3)])
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    found = zoo.load("byol_r18_mini", device="cpu", backend="torch").engine
    assert isinstance(found, TorchEngine)
    return found


@pytest.fixture(scope="module")
def pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)


def test_a_torch_network_gives_what_the_engine_gives(engine: TorchEngine, pixels: Any) -> None:
    batches = [pixels[first : first + 4] for first in range(0, 11, 4)]
    found = np.concatenate(list(embed_overlapped(engine, batches, 4, 32)))
    assert np.array_equal(found, np.concatenate([engine(batch) for batch in batches]))


def test_a_compiled_network_is_taken(engine: TorchEngine, pixels: Any) -> None:
    """It has no length, and is not asked for its truth."""
    network = torch.compile(engine.network(), backend="eager")
    (found,) = overlapped([pixels], [TorchSlot(engine, 11, 32, network=network)])
    np.testing.assert_allclose(found, engine(pixels), rtol=1e-4, atol=1e-5)


def test_another_network_and_type_are_taken(engine: TorchEngine, pixels: Any) -> None:
    types = []

    def network(x: torch.Tensor) -> torch.Tensor:
        types.append(x.dtype)
        return engine.network()(x.float())

    slots = [TorchSlot(engine, 11, 32, dtype=torch.float16, network=network, graph=True)]
    (found,) = overlapped([pixels], slots)
    assert types == [torch.float16]
    np.testing.assert_allclose(found, engine(pixels), rtol=0.05, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_streams_and_graphs_give_the_same(pixels: Any, graph: bool, precision: str) -> None:
    on_gpu = zoo.load("byol_r18_mini", device="cuda", backend="torch", precision=precision).engine
    assert isinstance(on_gpu, TorchEngine)
    batches = [pixels[first : first + 4] for first in range(0, 11, 4)] * 5
    found = np.concatenate(list(embed_overlapped(on_gpu, batches, 4, 32, graph=graph)))
    expected = np.concatenate([on_gpu(batch) for batch in batches])
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2 if precision == "bf16" else 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_cuda_lane_waits_for_another() -> None:
    first, second = CudaLane("cuda"), CudaLane("cuda")
    values = torch.zeros(1 << 24, device="cuda")
    for _ in range(20):
        mark = first.put(lambda: values.add_(1))
    end = second.put(lambda: values.mul_(2), [mark])
    end.wait()
    assert values[0].item() == values[-1].item() == 40


def test_lanes_of_a_cpu_wait_for_another_too() -> None:
    first, second, log = QueueLane(), QueueLane(), []
    gate = threading.Event()
    mark = first.put(lambda: (gate.wait(20), log.append("first")))
    end = second.put(lambda: log.append("second"), [mark])
    gate.set()
    end.wait()
    first.close()
    second.close()
    assert log == ["first", "second"]
    assert streams.SLOTS == 3
