"""The arrays of a shard, by the names of their outputs: as columns of a table, or as files of their own beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray

from zoo.inference.outputs import EMBEDDING

OK = "ok"
SHAPE = b"zoo.shape"  # in a field's metadata: JSON, the shape of a row
Arrays = Mapping[str, NDArray[Any]]


def shapes_of(identity: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The outputs that a plan's or manifest's identity names, in the order they are written: ``embedding`` first."""
    others: Mapping[str, list[int]] = identity.get("outputs", {})
    return {EMBEDDING: (identity["dim"],), **{name: tuple(others[name]) for name in sorted(others)}}


def file_names(stem: str, format: str, outputs: Sequence[str]) -> dict[str, list[str]]:
    """The files beside a table, and which outputs each holds.

    ``STEM.safetensors`` holds all; ``STEM.npy`` the embedding, ``STEM.layer3.npy`` another one.
    """
    if format == "parquet":
        return {}
    if format == "safetensors":
        return {f"{stem}.safetensors": list(outputs)}
    return {f"{stem}.npy" if name == EMBEDDING else f"{stem}.{name}.npy": [name] for name in outputs}


def encode(name: str, arrays: Arrays) -> bytes:
    """The bytes of a file of that name: a safetensors file of [rows, ...] by output, or the only array as .npy."""
    if name.endswith(".safetensors"):
        return safetensors.numpy.save(dict(arrays))
    (array,) = arrays.values()
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def decode(name: str, data: bytes, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """What ``encode`` made of these outputs; the bytes must be known to be that."""
    if name.endswith(".safetensors"):
        found = safetensors.numpy.load(data)
        return {output: found[output] for output in outputs}
    (output,) = outputs
    return {output: np.load(io.BytesIO(data), allow_pickle=False)}


def column(name: str, rows: NDArray[Any], status: Sequence[str | None]) -> tuple[pa.Field, pa.Array]:
    """[rows, ...] as a column of fixed-size lists, null where the status is not ok.

    Of an output other than the embedding the field's metadata have the shape.
    """
    flat = rows.reshape(len(rows), -1)
    # Not "item", Arrow's name for the field: Parquet has "element", and the type must survive a round trip.
    type = pa.list_(pa.field("element", pa.from_numpy_dtype(rows.dtype)), flat.shape[1])
    missing = pa.array([state != OK for state in status])
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), type=type, mask=missing)
    told = None if name == EMBEDDING else {SHAPE: json.dumps(rows.shape[1:])}
    return pa.field(name, type, metadata=told), values


def array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> NDArray[Any]:
    """Such a column of one shard as [rows, *shape], NaN where there is no vector."""
    found = column.combine_chunks()
    found = found.chunk(0) if isinstance(found, pa.ChunkedArray) else found
    values: NDArray[Any] = np.array(found.values.to_numpy(zero_copy_only=False))
    values[np.isnan(values)] = np.nan  # one NaN: for a missing float16 Arrow gives another than NumPy
    return values.reshape(len(found), *shape)
