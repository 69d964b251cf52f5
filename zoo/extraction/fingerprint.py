"""Check what a user asks for, and make the fingerprint of an extraction from it and from the model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from zoo.embeddings.fingerprint import DTYPES, FORMATS, MAX_ROWS, Fingerprint
from zoo.embeddings.shards import RESERVED
from zoo.errors import UserError, require_positive
from zoo.extraction.near_threshold import AUTO
from zoo.inference.outputs import EMBEDDING, Outputs
from zoo.transforms.decode import DECODER, PILLOW_MAX_PIXELS, choices_json
from zoo.transforms.limits import DEFAULT_OPTIONS, MAX_PIXELS, DecodeOptions
from zoo.transforms.preprocess import Preprocessing


class ModelInfo(Protocol):
    """What a fingerprint says of a model; ``zoo.Embedder`` has it, and so has a model that a cluster opened."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The transform from an image to the input of the network."""

    @property
    def requested(self) -> Outputs:
        """The outputs that are computed."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the outputs of an image, by name; ``embedding`` is always there."""

    def identity(self) -> dict[str, Any]:
        """Return all that decides the vectors, as JSON: name, weights, preprocessing, precision, versions."""


@dataclass(frozen=True)
class ExtractionConfig:
    """What a user chooses that decides the bytes of a result; ``zoo.extract`` describes each of them."""

    keep: Sequence[str] = ()
    format: str = "parquet"
    dtype: str = "float32"
    batch_size: int | None = None
    shard_size: int | None = None
    max_pixels: int = MAX_PIXELS
    decode: DecodeOptions = DEFAULT_OPTIONS
    image_column: str | None = None
    dedupe: bool = False
    near: float | str | None = None

    def check(self) -> None:
        """Refuse choices that no model makes right. Raises UserError."""
        if self.format not in FORMATS:
            raise UserError(f"unknown format {self.format!r}: choose one of {', '.join(FORMATS)}")
        if self.dtype not in DTYPES:
            raise UserError(f"unknown dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        for name, value in (("batch size", self.batch_size), ("shard size", self.shard_size)):
            if value is not None and require_positive(name, value) > MAX_ROWS:
                raise UserError(f"{name} {value}: give a number from 1 to {MAX_ROWS}")
        if not 1 <= self.max_pixels <= PILLOW_MAX_PIXELS:
            raise UserError(f"max pixels {self.max_pixels}: give a number from 1 to {PILLOW_MAX_PIXELS}")
        if isinstance(self.keep, str):
            raise UserError(f"keep {self.keep!r}: give a list of columns")
        keep = list(self.keep)
        if len(set(keep)) < len(keep):
            raise UserError(f"a column is kept twice: {', '.join(keep)}")
        _near_duplicates(self.dedupe, self.near)


def make_fingerprint(model: ModelInfo, config: ExtractionConfig) -> Fingerprint:
    """Check the choices and return the fingerprint; choices that are ``None`` get their default.

    Raises:
        UserError: a choice makes no sense, or does not fit the outputs of the model.
    """
    config.check()
    network, shapes = model.identity(), dict(model.shapes)
    batch_size, shard_size, keep = config.batch_size, config.shard_size, list(config.keep)
    # Fill in the sizes that the user left open.
    if batch_size is None:
        batch_size = default_batch_size(network.get("device", "cpu"), model.preprocessing.input_size)
    if shard_size is None:
        shard_size = default_shard_size(sum(math.prod(shape) for shape in shapes.values()))
    # Check the choices against the model.
    if config.decode.decode == "scaled":
        model.preprocessing.require_antialias()
    if taken := sorted((RESERVED | set(shapes)) & set(keep)):
        raise UserError(f"column {taken[0]} cannot be kept, the result has one of its own: rename it in the source")
    # Collect all that the vectors depend on.
    near = _near_duplicates(config.dedupe, config.near)
    dim = shapes.pop(EMBEDDING)[0]
    found = {
        **network,
        "dim": dim,
        "versions": {**network.get("versions", {}), "pyarrow": pa.__version__},
        **({"outputs": shapes} if shapes else {}),
        "decoder": {**DECODER, **choices_json(config.decode), "max_pixels": int(config.max_pixels)},
        "format": config.format,
        "dtype": config.dtype,
        "batch_size": int(batch_size),  # NumPy's numbers are none of JSON
        "shard_size": int(shard_size),
        **({"keep": keep} if keep else {}),
        **({"image_column": config.image_column} if config.image_column else {}),
        **({"dedupe": {"near": near}} if near is not None else {}),
    }
    return Fingerprint.from_json(json.loads(json.dumps(found)))  # as a plan gives it back: lists, no tuples


def default_batch_size(device: str, side: int) -> int:
    """Return a power of two, by a rule and not by a clock, because it can change the last digit of an embedding.

    On a CPU, where larger batches leave the caches: as many images of ``side`` pixels as have the pixels of 16 at
    224 x 224, at most 64. On a GPU, which smaller batches do not fill: the pixels of 256, at most 1024.
    """
    at_224, most = (16, 64) if device == "cpu" else (256, 1024)
    return int(max(1, min(most, 2 ** math.floor(math.log2(at_224 * 224**2 / side**2)))))


def default_shard_size(numbers: int) -> int:
    """Return 1024 images, or the power of two of them that has at most 2**26 numbers.

    Args:
        numbers: how many numbers the outputs of one image have.
    """
    return int(max(1, min(1024, 2 ** math.floor(math.log2(2**26 / numbers)))))


def _near_duplicates(dedupe: bool, near: float | str | None) -> float | str | None:
    """Return the threshold; ``None`` where no duplicates are looked for."""
    if not dedupe and near is None:
        return None
    if not dedupe:
        raise UserError("--near needs --dedupe")
    threshold = AUTO if near is None else near
    if threshold != AUTO and (isinstance(threshold, str) or not 0 < threshold <= 1):
        raise UserError(f"--near {threshold}: give a cosine above 0 and at most 1, or auto")
    return threshold if isinstance(threshold, str | int | float) else float(threshold)  # of NumPy
