"""The vectors of a shard, by the names of their outputs: as columns of a table, or as files beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray

from zoo.inference.outputs import EMBEDDING

OK = "ok"
NOTES_BETWEEN = "; "
"""Stands between the notes, "NAME: TEXT", that the column ``error`` of an image with an embedding can hold."""
SHAPE = b"zoo.shape"  # key in the metadata of a column: the shape of a row, as JSON

Vectors = NDArray[np.floating]
"""float32 or float16 [rows, ...]."""
Arrays = Mapping[str, Vectors]


def file_names(stem: str, format: str, outputs: Sequence[str]) -> dict[str, list[str]]:
    """Return the files beside a table, and the outputs that each holds.

    ``STEM.safetensors`` holds all outputs. ``STEM.npy`` holds the embedding, ``STEM.layer3.npy`` another output.
    """
    if format == "parquet":
        return {}
    if format == "safetensors":
        return {f"{stem}.safetensors": list(outputs)}
    return {f"{stem}.npy" if name == EMBEDDING else f"{stem}.{name}.npy": [name] for name in outputs}


def encode(name: str, arrays: Arrays) -> bytes:
    """Return the bytes of the file ``name``: safetensors with a tensor [rows, ...] per output, or one .npy array."""
    if name.endswith(".safetensors"):
        return safetensors.numpy.save(dict(arrays))
    (array,) = arrays.values()
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def decode(name: str, data: bytes, outputs: Sequence[str]) -> dict[str, Vectors]:
    """Read what ``encode`` wrote for these outputs. The bytes must be known to be unaltered."""
    if name.endswith(".safetensors"):
        found = safetensors.numpy.load(data)
        return {output: found[output] for output in outputs}
    (output,) = outputs
    return {output: np.load(io.BytesIO(data), allow_pickle=False)}


def column(name: str, rows: Vectors, status: Sequence[str | None]) -> tuple[pa.Field, pa.Array]:
    """Return [rows, ...] as a column of fixed-size lists, null where the status is not ok.

    The metadata of the column hold its shape, except for the embedding.
    """
    flat = rows.reshape(len(rows), -1)
    # Not "item", Arrow's name for the field: Parquet has "element", and the type must survive a round trip.
    type = pa.list_(pa.field("element", pa.from_numpy_dtype(rows.dtype)), flat.shape[1])
    missing = pa.array([state != OK for state in status])
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), type=type, mask=missing)
    metadata = None if name == EMBEDDING else {SHAPE: json.dumps(rows.shape[1:])}
    return pa.field(name, type, metadata=metadata), values


def array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> Vectors:
    """Return a column of one shard as [rows, *shape], NaN where there is no vector."""
    found = column.combine_chunks()
    found = found.chunk(0) if isinstance(found, pa.ChunkedArray) else found
    values: Vectors = np.array(found.values.to_numpy(zero_copy_only=False))
    values[np.isnan(values)] = np.nan  # one NaN: for a missing float16 Arrow gives another than NumPy
    return values.reshape(len(found), *shape)
