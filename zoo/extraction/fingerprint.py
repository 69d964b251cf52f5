"""What decides the bytes of an extraction, checked: the identity that its plan is frozen with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from zoo.embeddings.shards import DTYPES, FORMATS, RESERVED
from zoo.errors import UserError
from zoo.extraction.near_duplicates import NEAR
from zoo.extraction.pipeline import Described
from zoo.inference.outputs import EMBEDDING
from zoo.transforms.decode import DECODER, PILLOW_MAX_PIXELS


def make_identity(
    embedder: Described,
    *,
    format: str,
    dtype: str,
    batch_size: int | None,
    shard_size: int | None,
    max_pixels: int,
    keep: Sequence[str],
    dedupe: bool,
    near: float | None,
) -> dict[str, Any]:
    """As JSON holds it. The arguments are those of ``zoo.extraction.extract.extract``; those that are ``None`` get a
    default.

    Raises:
        UserError: one of them makes no sense, or clashes with what ``embedder`` gives.
    """
    of_embedder, shapes = embedder.identity(), dict(embedder.shapes)
    if batch_size is None:
        batch_size = default_batch_size(of_embedder.get("device", "cpu"), embedder.preprocessing.input_size)
    if shard_size is None:
        shard_size = default_shard_size(sum(math.prod(shape) for shape in shapes.values()))
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    for name, value in (("batch size", batch_size), ("shard size", shard_size)):
        if value < 1:
            raise UserError(f"{name} {value}: give a number above zero")
    if not 1 <= max_pixels <= PILLOW_MAX_PIXELS:
        raise UserError(f"max pixels {max_pixels}: give a number from 1 to {PILLOW_MAX_PIXELS}")
    if len(set(keep)) < len(keep):
        raise UserError(f"a column is kept twice: {', '.join(keep)}")
    if taken := sorted((RESERVED | set(shapes)) & set(keep)):
        raise UserError(f"column {taken[0]} cannot be kept, the result has one of its own: rename it in the source")
    identity = {
        **of_embedder,
        "dim": shapes.pop(EMBEDDING)[0],
        **({"outputs": shapes} if shapes else {}),
        "decoder": {**DECODER, "max_pixels": max_pixels},
        "format": format,
        "dtype": dtype,
        "batch_size": batch_size,
        "shard_size": shard_size,
        **({"keep": list(keep)} if keep else {}),
        "versions": {**of_embedder.get("versions", {}), "pyarrow": pa.__version__},
        **_dedupe(dedupe, near),
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def default_batch_size(device: str, side: int) -> int:
    """A power of two, by a rule and not by a clock, because it can change an embedding's last digit.

    As many images as have the pixels of 16 at 224 x 224, at most 64, on a CPU, where the activations of more leave the
    caches; of 256, at most 1024, on a GPU, which fewer do not fill.
    """
    at_224, most = (16, 64) if device == "cpu" else (256, 1024)
    return int(max(1, min(most, 2 ** math.floor(math.log2(at_224 * 224**2 / side**2)))))


def default_shard_size(numbers: int) -> int:
    """1024 images, or a power of two of them that have at most 2**26 numbers, where each has so many."""
    return int(max(1, min(1024, 2 ** math.floor(math.log2(2**26 / numbers)))))


def _dedupe(dedupe: bool, near: float | None) -> dict[str, Any]:
    """Nothing where no copies are looked for."""
    if not dedupe and near is None:
        return {}
    if not dedupe:
        raise UserError("--near needs --dedupe")
    least = NEAR if near is None else near
    if not 0 < least <= 1:
        raise UserError(f"--near {least}: give a cosine above 0 and at most 1")
    return {"dedupe": {"near": least}}
