"""Upload, network and download of consecutive batches at the same time, on lanes of their own.

On a GPU a lane is a CUDA stream, and a lane waits for another's work by an event, without the CPU. Pixels cross as
uint8 from pinned memory, a quarter of the bytes of floats, and are normalised on the GPU. The twin for a CPU has a
thread with a queue for each lane: it gains nothing there, and runs the same order of steps, which tests can watch.

Measured on no GPU yet: ``zoo extract`` does not use it until ``benchmarks/gpu.sh`` has shown what it gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.inference.torch_backend import TorchEngine

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]
Embeddings = NDArray[np.float32]
SLOTS = 3  # batches under way: one that is uploaded, one in the network, one that is downloaded


class Done(Protocol):
    """Marks the end of a piece of work on a lane."""

    def wait(self) -> None:
        """Block this thread until then, and raise what the work raised."""


class Lane(Protocol):
    """Does pieces of work one after the other."""

    def put(self, work: Callable[[], object], after: Sequence[Any] = ()) -> Done:
        """Enqueue work that begins when the marks ``after``, of lanes of the same kind, are reached."""

    def close(self) -> None:
        """Wait for all work."""


class QueueLane:
    """A lane on a CPU: a thread and its queue."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def put(self, work: Callable[[], object], after: Sequence[_Ran] = ()) -> _Ran:
        """Enqueue work."""

        def wait_and_work() -> None:
            for mark in after:
                mark.wait()
            work()

        return _Ran(self._thread.submit(wait_and_work))

    def close(self) -> None:
        """Wait for all work."""
        self._thread.shutdown()


class _Ran:
    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def wait(self) -> None:
        self._future.result()


class CudaLane:
    """A lane on a GPU: a CUDA stream."""

    def __init__(self, device: str) -> None:
        import torch

        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own

    def put(self, work: Callable[[], object], after: Sequence[_Event] = ()) -> _Event:
        """Enqueue work; the stream waits for events, this thread does not."""
        import torch

        for mark in after:
            self.stream.wait_event(mark.event)
        with torch.cuda.stream(self.stream):
            work()
        return _Event(self.stream.record_event())

    def close(self) -> None:
        """Wait for all work."""
        self.stream.synchronize()


class _Event:
    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def wait(self) -> None:
        self.event.synchronize()


class Slot(Protocol):
    """The memory of one batch under way, and what happens in it. No step of one slot runs beside another of it."""

    def fill(self, pixels: Pixels) -> None:
        """Copy a batch into the memory that is uploaded."""

    def upload(self) -> None:
        """Copy it to the device."""

    def compute(self) -> None:
        """Run the network."""

    def download(self) -> None:
        """Copy the embeddings back."""

    def result(self) -> Embeddings:
        """Return them, in memory of their own."""


def overlapped(
    batches: Iterable[Pixels], slots: Sequence[Slot], new_lane: Callable[[], Lane] = QueueLane
) -> Iterator[Embeddings]:
    """Yield the embeddings of batches in their order, with as many batches under way as there are slots."""
    under_way: list[tuple[Slot, Done]] = []
    with ExitStack() as stack:
        lanes = []
        for _ in range(3):
            lanes.append(new_lane())
            stack.callback(lanes[-1].close)
        up, network, down = lanes
        for number, pixels in enumerate(batches):
            if len(under_way) == len(slots):  # the oldest batch has the slot that comes next
                yield _finished(under_way.pop(0))
            slot = slots[number % len(slots)]
            slot.fill(pixels)
            there = up.put(slot.upload)
            ran = network.put(slot.compute, [there])
            under_way.append((slot, down.put(slot.download, [ran])))
        while under_way:
            yield _finished(under_way.pop(0))


def _finished(entry: tuple[Slot, Done]) -> Embeddings:
    slot, done = entry
    done.wait()
    return slot.result()


class TorchSlot:
    """A slot of a torch network: pinned memory on the host, memory on the device, and perhaps a CUDA graph.

    Args:
        engine: the network, its device and precision.
        batch_size: the most images of a batch.
        size: pixels of a side.
        dtype: of the network's input and weights: float16, or ``None`` for the engine's own precision.
        graph: capture the network as a CUDA graph; only full batches run it.
        network: what runs instead of the engine's network: compiled, or in another type.
    """

    def __init__(
        self,
        engine: TorchEngine,
        batch_size: int,
        size: int,
        *,
        dtype: torch.dtype | None = None,
        graph: bool = False,
        network: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        import torch

        self._engine, self._dtype = engine, dtype
        self._network = engine.network() if network is None else network
        self._cuda = engine.device.startswith("cuda")
        shape = (batch_size, size, size, 3)
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=self._cuda)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=engine.device)
        self._back = torch.empty((batch_size, engine.dim), pin_memory=self._cuda)
        self._out: torch.Tensor | None = None
        self._count = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        if graph and self._cuda:
            self._capture()

    def fill(self, pixels: Pixels) -> None:
        """Copy a batch into pinned memory."""
        import torch

        self._count = len(pixels)
        self._pinned[: self._count].copy_(torch.from_numpy(pixels))

    def upload(self) -> None:
        """Copy it to the device as uint8."""
        self._pixels[: self._count].copy_(self._pinned[: self._count], non_blocking=True)

    def compute(self) -> None:
        """Normalise on the device and run the network; a full batch runs the captured graph, if there is one."""
        if self._graph is not None and self._count == len(self._pixels):
            self._graph.replay()
            self._out = self._captured
        else:
            self._out = self._forward(self._pixels[: self._count])

    def download(self) -> None:
        """Copy the embeddings into pinned memory."""
        assert self._out is not None
        self._back[: self._count].copy_(self._out[: self._count], non_blocking=True)

    def result(self) -> Embeddings:
        """Return a copy: the pinned memory is filled again."""
        found: Embeddings = self._back[: self._count].numpy().copy()
        return found

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.inference_mode(), self._engine.autocast():
            x = self._engine.normalised(pixels)
            return self._network(x if self._dtype is None else x.to(self._dtype)).float()

    def _capture(self) -> None:
        import torch

        # Warm up on another stream first: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._forward(self._pixels)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._captured = self._forward(self._pixels)
        self._graph = graph


def embed_overlapped(
    engine: TorchEngine, batches: Iterable[Pixels], batch_size: int, size: int, **options: Any
) -> Iterator[Embeddings]:
    """Yield the embeddings [N, D] of batches uint8 [N, size, size, 3] on the engine's device, batches overlapping.

    Args:
        options: of ``TorchSlot``.
    """
    slots = [TorchSlot(engine, batch_size, size, **options) for _ in range(SLOTS)]
    cuda = engine.device.startswith("cuda")
    yield from overlapped(batches, slots, (lambda: CudaLane(engine.device)) if cuda else QueueLane)
