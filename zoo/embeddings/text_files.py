"""Results as text, for programs that read nothing else: CSV with a column per number, JSON lines with lists.

Numbers are the shortest that give the same float32 again. A row without an embedding has empty cells, or null. Bytes
(``path_bytes``, kept columns) are base64. Shards are written one after the other: memory holds one.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from zoo.embeddings.columns import OK, Vectors
from zoo.errors import UserError

TEXT_KINDS = (".csv", ".jsonl")
_NUMBERS_AT_ONCE = 1 << 18  # as text, with 80 bytes each in memory: a shard of maps has 2**26

Shards: TypeAlias = "Iterable[tuple[pa.Table, Mapping[str, Vectors]]]"
"""For each shard its table without the columns of outputs, and the outputs, NaN where there is none."""


class Writable(Protocol):
    """A file open for writing bytes."""

    def write(self, data: bytes, /) -> object: ...


def write_text(kind: str, shards: Shards, file: Writable) -> None:
    """Write shards as a CSV file with a header, or as a JSON object per line.

    Args:
        kind: one of ``TEXT_KINDS``.
    """
    _write_csv(_blocks(shards), file) if kind == ".csv" else _write_json_lines(_blocks(shards), file)


def _blocks(shards: Shards) -> Iterator[tuple[pa.Table, Mapping[str, Vectors]]]:
    """Cut shards into blocks of rows with at most ``_NUMBERS_AT_ONCE`` numbers, or of one row."""
    for table, outputs in shards:
        numbers = sum(values.size for values in outputs.values()) // max(1, len(table))
        height = max(1, _NUMBERS_AT_ONCE // max(1, numbers))
        for first in range(0, len(table), height):
            yield table.slice(first, height), {name: v[first : first + height] for name, v in outputs.items()}


def _write_csv(shards: Shards, file: Writable) -> None:
    writer = None
    for table, outputs in shards:
        missing = _missing(table)
        columns = {name: _cells(table[name]) for name in table.schema.names}
        # One column per number: embedding_0, embedding_1, ...
        for name, values in outputs.items():
            flat = values.reshape(len(values), -1)
            if taken := columns.keys() & {f"{name}_{i}" for i in range(flat.shape[1])}:
                raise UserError(f"the result keeps a column {min(taken)}, the name of a number in CSV: use .jsonl")
            for i in range(flat.shape[1]):
                columns[f"{name}_{i}"] = pa.array(flat[:, i].astype(np.float32), mask=missing)
        part = pa.table(columns)
        # The first shard gives the header.
        if writer is None:
            writer = pa.csv.CSVWriter(file, part.schema)
        writer.write_table(part)
    if writer is not None:
        writer.close()


def _write_json_lines(shards: Shards, file: Writable) -> None:
    for table, outputs in shards:
        rows, missing = table.to_pylist(), _missing(table)
        texts = {name: _lists(values) for name, values in outputs.items()}
        for number, row in enumerate(rows):
            head = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
            vectors = (f'"{name}": {"null" if missing[number] else text[number]}' for name, text in texts.items())
            file.write((", ".join([head[:-1], *vectors]) + "}\n").encode())


def _missing(table: pa.Table) -> NDArray[np.bool_]:
    return np.array([state != OK for state in table["status"].to_pylist()], bool)


def _lists(values: Vectors) -> list[str]:
    """Return each row of [N, ...] as a JSON list, nested as its shape is."""
    numbers: list[str] = pc.cast(pa.array(values.ravel().astype(np.float32)), pa.string()).to_pylist()
    # Close the innermost lists first.
    for length in reversed(values.shape[1:]):
        numbers = ["[" + ", ".join(numbers[i : i + length]) + "]" for i in range(0, len(numbers), length)]
    return numbers


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return a column that CSV can hold: bytes as base64, lists and structs as JSON."""
    kind = column.type
    if pa.types.is_nested(kind):
        rows = column.to_pylist()
        return pa.array([None if v is None else json.dumps(_plain(v), ensure_ascii=False) for v in rows], pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.array([_plain(value) for value in column.to_pylist()], pa.string())
    return column


def _plain(value: object) -> object:
    """Return a value of Arrow as JSON has it; what JSON cannot hold becomes text, and NaN null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
