"""Make shards: read and decode images ahead of the network, embed them batch by batch, write each shard.

Each image has a slot in its batch that is a function of the plan alone. An image that cannot be read leaves zeros in
its slot, and the vector made of them is thrown away: no image can get the vector of another one.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from zoo.embeddings.columns import NOTES_BETWEEN, OK, Vectors
from zoo.embeddings.plan import Plan
from zoo.embeddings.row_reader import RowReader
from zoo.embeddings.shards import OutputFolder, Rows
from zoo.errors import UserError
from zoo.extraction.fingerprint import ModelInfo
from zoo.inference.outputs import EMBEDDING
from zoo.sources.base import ImageRow, Source, one_large_file
from zoo.system.prefetch import prefetch
from zoo.system.progress import Progress
from zoo.system.shortage import raise_if_short
from zoo.transforms.decode import decoded, is_jpeg
from zoo.transforms.limits import DEFAULT_OPTIONS, DecodeOptions
from zoo.transforms.unreadable import UnreadableImage
from zoo.transforms.upright_rgb import notes_of, whole_of

NOT_FINITE = "not-finite"
_SCALED_SPEED = 5.0  # of decoding and resizing large JPEGs: benchmarks/results/decode_scaled.json has 6 to 9
_WORTH_SECONDS, _LEAST_SHARE = 10, 0.5  # the least that is worth a hint: what it saves, share of the run
_BURST_PER_WORKER = 8  # images: with fewer, most workers would wait for the one that has a large image


@runtime_checkable
class FeatureExtractor(ModelInfo, Protocol):
    """A model that runs in this process; ``zoo.Embedder`` is one."""

    def views(self, image: Image) -> list[NDArray[np.uint8]]:
        """Return the crops and tiles of an RGB image: ``requested.views`` arrays uint8 [H, W, 3].

        Raises:
            UnreadableImage: the image would be too large.
        """

    def outputs_of(
        self, views: Sequence[Sequence[NDArray[np.uint8]]], at_once: int
    ) -> Mapping[str, NDArray[np.float32]]:
        """Return the outputs of N images from their views, at most ``at_once`` in a forward pass: float32 [N, ...]."""


@dataclass(frozen=True)
class DecodedImage:
    """One file after decoding; ``views`` are ``None`` unless ``status`` is ok, where ``error`` holds notes, if any."""

    status: str
    error: str | None
    sha256: str | None
    width: int | None = None
    height: int | None = None
    views: list[NDArray[np.uint8]] | None = None


@dataclass
class Times:
    """What the making of shards spent on images, in seconds; threads add to it.

    Attributes:
        waited: in which the network had no images to work on.
        images: of all threads together, for reading, decoding and resizing.
        scalable: the part of ``images`` for JPEGs of which ``--decode scaled`` would decode fewer pixels.
    """

    waited: float = 0
    images: float = 0
    scalable: float = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Add the time of the ``with`` block to ``waited``."""
        started = time.monotonic()
        yield
        self.waited += time.monotonic() - started

    def add_image(self, seconds: float, could_be_scaled: bool) -> None:
        """Add the time of one image."""
        with self._lock:
            self.images += seconds
            self.scalable += seconds if could_be_scaled else 0

    def scaled_gain(self, seconds: float) -> float | None:
        """Return how many times as fast a run of ``seconds`` would be with ``--decode scaled``, roughly.

        ``None`` where images took less than half of the run, or no more than ``_WORTH_SECONDS`` would be saved.
        """
        saved = self.waited * (self.scalable / self.images if self.images else 0) * (1 - 1 / _SCALED_SPEED)
        if self.waited < seconds * _LEAST_SHARE or saved <= _WORTH_SECONDS:
            return None
        return seconds / (seconds - saved)


def make_shards(
    plan: Plan,
    shards: Sequence[int],
    folder: OutputFolder,
    source: Source,
    model: FeatureExtractor,
    *,
    workers: int,
    previous: RowReader | None = None,
    progress: Progress | None = None,
    times: Times | None = None,
) -> int:
    """Compute and commit shards of a plan, one after the other.

    Args:
        shards: their numbers.
        workers: threads that read and decode.
        previous: the result from which an update copies rows.
        times: where to add up what took how long.

    Returns:
        The number of images that failed.

    Raises:
        UserError: another run has put a new plan into the folder meanwhile.
        zoo.embeddings.shards.OutputReplaced: a row that the plan reuses is not there any more.
    """
    # Remember the plan's file, to notice another run's update.
    frozen = os.stat(folder.plan)
    at_once, on_cpu = plan.fingerprint.batch_size, plan.fingerprint.on_cpu
    batch_size = max(1, at_once // model.requested.views)
    failed = failed_now = 0

    # Reader. Beside a network on a GPU the threads decode the next images, of the next shard too. A network on the CPU
    # uses every core itself: decoding at the same time would make both wait for each other, so the two take turns.
    times = times or Times()
    read = partial(
        read_image,
        source,
        model=model,
        max_pixels=plan.fingerprint.max_pixels,
        options=plan.fingerprint.decode_options,
        times=times,
    )
    planned = (row for shard in shards for row in plan.files_at(plan.to_compute(shard)).to_pylist())
    burst = -(-_BURST_PER_WORKER * workers // batch_size) * batch_size
    ahead = burst if on_cpu else batch_size + 2 * workers
    calls = (partial(read, row) for row in planned)
    with closing(prefetch(calls, ahead, threads=workers, in_bursts=on_cpu)) as images:
        for shard in shards:
            rows = Rows.empty(plan, shard)
            slots: list[int] = (plan.to_compute(shard) - plan.rows(shard).start).tolist()

            # Mapper: the network, batch by batch.
            for first in range(0, len(slots), batch_size):
                batch = slots[first : first + batch_size]
                with times.waiting():
                    decoded_images = list(islice(images, len(batch)))
                embed_batch(rows, batch, decoded_images, model, at_once)
                failed_now += sum(rows.status[slot] != OK for slot in batch)
                if progress is not None:
                    progress.advance(len(batch), **({"failed": failed_now} if failed_now else {}))

            # Writer: rows of an earlier result are filled in, then the shard appears by one rename.
            if previous is not None:
                previous.copy_reused(plan, shard, rows)
            # Write nothing into a folder that has a newer plan.
            if not os.path.samestat(frozen, os.stat(folder.plan)):
                raise UserError(f"{folder.root} was updated by another run: run the same command again")
            folder.write(plan, shard, rows)
            failed += rows.failed
    return failed


def read_image(
    source: Source,
    row: ImageRow,
    model: FeatureExtractor,
    max_pixels: int,
    options: DecodeOptions = DEFAULT_OPTIONS,
    times: Times | None = None,
) -> DecodedImage:
    """Read, hash, decode, resize and crop one image. Whatever is wrong with the file becomes its status."""
    sha256, started = None, time.monotonic()
    reduction = partial(model.preprocessing.reduction, tiles=model.requested.tiles)
    check_size = partial(model.preprocessing.check_size, crops=model.requested.crops)
    try:
        # Decode a large file alone, so that two never share the memory.
        with one_large_file(row):
            data = source.read(row)
            sha256 = hashlib.sha256(data).hexdigest()
            with decoded(data, max_pixels, options, check_size=check_size, reduction=reduction) as image:
                notes, whole = NOTES_BETWEEN.join(notes_of(image)) or None, whole_of(image)
                views = model.views(image)
            if times is not None:
                could_be_scaled = is_jpeg(data) and reduction(whole.width, whole.height) >= 2
                times.add_image(time.monotonic() - started, could_be_scaled)
            return DecodedImage(OK, notes, sha256, whole.width, whole.height, views)
    except UnreadableImage as error:
        return DecodedImage(error.reason, error.detail, sha256)
    except MemoryError as error:
        raise_if_short(error)
        return DecodedImage("too-large", "not enough memory", sha256)


def embed_batch(
    rows: Rows, slots: Sequence[int], images: Iterable[DecodedImage], model: FeatureExtractor, at_once: int
) -> None:
    """Run the network on one batch and fill its slots.

    Args:
        slots: as many as there are images.
        at_once: number of views in a forward pass, at most.
    """
    # Embed the readable images together.
    images = list(images)
    vectors = _vectors_of(images, model, at_once, rows)
    for position, (slot, image) in enumerate(zip(slots, images, strict=True)):
        status, error = image.status, image.error
        # A vector that is not finite is a failure of its image.
        if status == OK and (name := _first_not_finite(vectors, position)) is not None:
            where = "" if name == EMBEDDING else f" in {name}"
            status, error = NOT_FINITE, f"the network gave a value{where} that is not finite in {vectors[name].dtype}"
        if status == OK:
            for name, values in vectors.items():
                rows.vectors[name][slot] = values[position]
        # Record the facts of every image, a failed one too.
        rows.status[slot], rows.error[slot], rows.sha256[slot] = status, error, image.sha256
        rows.width[slot], rows.height[slot] = image.width, image.height


def _vectors_of(
    images: Sequence[DecodedImage], model: FeatureExtractor, at_once: int, rows: Rows
) -> dict[str, Vectors]:
    """Return the outputs of a batch in the type of the rows; empty if no image has views.

    The outputs of an image without views are meaningless: the network sees zeros in its place.
    """
    if all(image.views is None for image in images):
        return {}
    blank = [
        np.zeros((model.preprocessing.input_size,) * 2 + (model.preprocessing.channels,), np.uint8)
    ] * model.requested.views
    views = [blank if image.views is None else image.views for image in images]
    with np.errstate(over="ignore"):  # float16 cannot hold every float32: such rows are not finite
        return {
            name: values.astype(rows.vectors[name].dtype, copy=False)
            for name, values in model.outputs_of(views, at_once).items()
        }


def _first_not_finite(vectors: Mapping[str, Vectors], position: int) -> str | None:
    return next((name for name, values in vectors.items() if not np.isfinite(values[position]).all()), None)
