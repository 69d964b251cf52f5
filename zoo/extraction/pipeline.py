"""From planned files to the rows of a shard: threads decode a bounded number of images ahead of the network.

Each image has a slot in its batch that is a function of the plan alone. An image that cannot be read leaves
zeros in its slot, and the vector made of them is thrown away: no image can get another one's vector.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from zoo.embeddings.columns import OK
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import Rows
from zoo.inference.outputs import EMBEDDING, Outputs
from zoo.sources import Source
from zoo.system.progress import Progress
from zoo.transforms.decode import UnreadableImage, decoded
from zoo.transforms.preprocess import Preprocessing

NOT_FINITE = "not-finite"
_LARGE_FILE = 32 * 1024 * 1024
_BURST_PER_WORKER = 8  # images: with few each, most workers would wait for the one that has a large image
_one_large_file = threading.Lock()

T = TypeVar("T")
R = TypeVar("R")


class Described(Protocol):
    """What a plan says of an engine."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input."""

    @property
    def wants(self) -> Outputs:
        """What is wanted of each image."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """What ``outputs_of`` gives of an image, by name; ``embedding`` is always there."""

    def identity(self) -> dict[str, Any]:
        """All that decides the vectors, JSON-able: model, weights, preprocessing, precision, versions."""


@runtime_checkable
class Embedder(Described, Protocol):
    """What extraction needs of an engine to make shards here."""

    def views(self, image: Image) -> list[NDArray[np.uint8]]:
        """What the network sees of an RGB image: ``wants.views`` arrays uint8 [H, W, 3]. Raises UnreadableImage."""

    def outputs_of(
        self, views: Sequence[Sequence[NDArray[np.uint8]]], at_once: int
    ) -> Mapping[str, NDArray[np.float32]]:
        """The outputs of N images from their views, at most ``at_once`` in a forward pass: float32 [N, *shape]."""


@dataclass(frozen=True)
class Picture:
    """One file after decoding; ``views`` are None unless ``status`` is ok."""

    status: str
    error: str | None
    sha256: str | None
    width: int | None = None
    height: int | None = None
    views: list[NDArray[np.uint8]] | None = None


def room_for(row: dict[str, Any]) -> AbstractContextManager[Any]:
    """To hold while a planned file is in memory: as for large images, threads must not multiply what one can take."""
    return _one_large_file if row["size"] > _LARGE_FILE else nullcontext()


def read_picture(source: Source, row: dict[str, Any], embedder: Embedder, max_pixels: int) -> Picture:
    """Read, hash, decode, resize and crop one planned file. Never raises for what is wrong with the file."""
    sha256 = None
    try:
        with room_for(row):
            data = source.read(row)
            sha256 = hashlib.sha256(data).hexdigest()
            with decoded(data, max_pixels) as image:
                return Picture(OK, None, sha256, image.width, image.height, embedder.views(image))
    except UnreadableImage as error:
        return Picture(error.reason, error.detail, sha256)
    except MemoryError:
        return Picture("too-large", "not enough memory", sha256)


def look_ahead(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int, *, in_bursts: bool = False
) -> Generator[R, None, None]:
    """``function`` of each item in order, computed in threads.

    Args:
        workers: number of threads.
        ahead: how many items at most are begun before their results are asked for.
        in_bursts: begin ``ahead`` items at a time, and the next ones only when all of these were taken, so that
            the threads rest while the last of them are used.

    Closing the iterator waits for what has begun and drops the rest.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: deque[Future[R]] = deque()
    items = iter(items)

    def begin(n: int) -> bool:
        pending.extend(pool.submit(function, item) for item in islice(items, n))
        return bool(pending)

    try:
        while pending or begin(ahead):
            result = pending.popleft().result()
            if not in_bursts:
                begin(1)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def compute_shards(
    plan: Plan, shards: list[int], source: Source, embedder: Embedder, workers: int, progress: Progress | None
) -> Generator[tuple[int, Rows], None, None]:
    """The given shards of a plan, one after the other, each with its computed rows filled in.

    The rows that the plan takes over from an earlier result are left empty. Beside a network on a GPU the next
    images are decoded, of the next shard too. A network on the CPU uses every core itself: decoding at the same
    time would make both wait for each other, so the two take turns.
    """
    at_once: int = plan.identity["batch_size"]
    batch_size = max(1, at_once // embedder.wants.views)
    read = partial(read_picture, source, embedder=embedder, max_pixels=plan.identity["decoder"]["max_pixels"])
    on_cpu = plan.identity.get("device") == "cpu"
    batches = -(-_BURST_PER_WORKER * workers // batch_size)
    ahead = batches * batch_size if on_cpu else batch_size + 2 * workers
    failed = 0
    with closing(look_ahead(read, _planned(plan, shards), workers, ahead, in_bursts=on_cpu)) as pictures:
        for shard in shards:
            rows = Rows.empty(plan, shard)
            slots: list[int] = (plan.to_compute(shard) - plan.rows(shard).start).tolist()
            for first in range(0, len(slots), batch_size):
                batch = slots[first : first + batch_size]
                failed += _fill(rows, batch, list(islice(pictures, len(batch))), embedder, at_once)
                if progress is not None:
                    progress.advance(len(batch), **({"failed": failed} if failed else {}))
            yield shard, rows


def _planned(plan: Plan, shards: list[int]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from plan.files.take(plan.to_compute(shard)).to_pylist()


def _fill(rows: Rows, slots: list[int], pictures: list[Picture], embedder: Embedder, at_once: int) -> int:
    found = _outputs(rows, pictures, embedder, at_once)
    for position, (slot, picture) in enumerate(zip(slots, pictures, strict=True)):
        status, error = picture.status, picture.error
        if status == OK and (name := next((n for n, values in found.items() if not _finite(values[position])), None)):
            where = "" if name == EMBEDDING else f" in {name}"
            status, error = NOT_FINITE, f"the network gave a value{where} that is not finite in {found[name].dtype}"
        if status == OK:
            for name, values in found.items():
                rows.vectors[name][slot] = values[position]
        rows.status[slot], rows.error[slot], rows.sha256[slot] = status, error, picture.sha256
        rows.width[slot], rows.height[slot] = picture.width, picture.height
    return sum(rows.status[slot] != OK for slot in slots)


def _outputs(rows: Rows, pictures: list[Picture], embedder: Embedder, at_once: int) -> dict[str, NDArray[Any]]:
    """The outputs of a batch in the type of the rows; meaningless where a picture has no views, empty if none has."""
    if all(picture.views is None for picture in pictures):
        return {}
    blank = [np.zeros((embedder.preprocessing.input_size,) * 2 + (3,), np.uint8)] * embedder.wants.views
    views = [blank if picture.views is None else picture.views for picture in pictures]
    with np.errstate(over="ignore"):
        return {
            name: values.astype(rows.vectors[name].dtype, copy=False)
            for name, values in embedder.outputs_of(views, at_once).items()
        }


def _finite(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values).all())
