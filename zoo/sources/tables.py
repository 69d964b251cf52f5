"""Open a table, a Parquet file or an Arrow stream, and find the column that holds its images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from zoo.errors import UserError
from zoo.sources.storage import Local, Storage
from zoo.system.parquet import PageChecks

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
_PATH_COLUMNS = ("path", "file_name", "filename", "filepath", "file_path", "image_path")
_OF_A_RESULT = {"path_bytes", "status", "embedding"}  # columns of `zoo extract`, whose paths begin elsewhere
_MAX_TYPE = 40  # characters of a type in a message


class ParquetTable:
    """A Parquet file: ``groups`` has the first row of each row group.

    Raises:
        pa.ArrowException, OSError and others: it is damaged; ``pa.ArrowInvalid`` where it claims too many rows.
    """

    def __init__(self, file: BinaryIO, *, is_near: bool) -> None:
        # Buffered: a few pages of a row group of any size are in memory at a time.
        self._checks = PageChecks(file)
        file.seek(0)
        self._file = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        self.schema: pa.Schema = self._file.schema_arrow
        sizes = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
        self.rows = sum(sizes)
        if min(sizes, default=0) < 0 or self.rows > self._checks.rows:
            raise pa.ArrowInvalid(f"it claims {self.rows} rows, more than fit into it")
        self._is_near = is_near
        self.groups = list(accumulate(sizes, initial=0))[:-1]

    def batches(self, group: int, columns: list[str], n: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of ``n`` rows of some columns of a row group."""
        if self._is_near:  # over a network every header would be a request
            self._checks.require_group(group, columns)
        found: Iterator[pa.RecordBatch] = self._file.iter_batches(
            n, row_groups=[group], columns=columns, use_threads=False
        )
        return found


class ArrowTable:
    """An Arrow stream: one group, because a batch that is skipped is not read from the disk."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        with self._stream() as stream:
            self.schema: pa.Schema = stream.schema
            self.rows = sum(batch.num_rows for batch in stream)
        self.groups = [0]

    def batches(self, group: int, columns: list[str], n: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most ``n`` rows of some columns."""
        with self._stream() as stream:
            for batch in stream:
                picked = batch.select(list(dict.fromkeys(split_column(self.schema, name)[0] for name in columns)))
                picked.validate(full=True)  # offsets may lead outside of the file
                yield from (picked.slice(at, n) for at in range(0, picked.num_rows, n))

    def _stream(self) -> pa.RecordBatchReader:
        self._file.seek(0)
        return pa.ipc.open_stream(self._file)


def open_table(where: Storage, name: bytes, stack: ExitStack) -> ParquetTable | ArrowTable:
    """Open a table until ``stack`` ends: an Arrow stream by its ending, anything else as Parquet.

    What Arrow raises for damaged bytes is no closed set.
    """
    file = stack.enter_context(where.open(name))
    if not name.lower().endswith(b".arrow"):
        return ParquetTable(file, is_near=isinstance(where, Local))
    if isinstance(where, Local):
        return ArrowTable(stack.enter_context(pa.memory_map(os.path.join(os.fsencode(where.root), name))))
    return ArrowTable(stack.enter_context(pa.PythonFile(file, mode="r")))


class ImageColumn(NamedTuple):
    """What to read of a row: a column, and the fields of it where it is a struct; a text is a path."""

    name: str
    fields: tuple[str, ...] = ()

    @property
    def parts(self) -> list[str]:
        """The columns as Parquet names them."""
        return [f"{self.name}.{field}" for field in self.fields] or [self.name]


class ImagePath(NamedTuple):
    """The path in a row that holds no bytes."""

    path: bytes


def image_column_of(schema: pa.Schema, shown: str, wanted: str | None = None) -> ImageColumn:
    """Return the image column. Raises UserError, which lists the columns that are there."""
    holding = {name: found for name in schema.names if (found := _holding(name, schema.field(name).type))}
    has = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema)
    if wanted is not None:
        top, _, part = wanted.partition(".")
        if top in schema.names and part and _is_field(schema.field(top).type, part):
            return ImageColumn(top, (part,))
        if wanted in holding:
            return holding[wanted]
        if wanted in schema.names and _is_text(schema.field(wanted).type):
            return ImageColumn(wanted)
        raise UserError(f"{shown} has no column {wanted} of images, bytes or paths; it has {has}")
    # By its name among those with bytes, the only one, or by its name among those with paths.
    for name in IMAGE_COLUMNS:
        if name in holding:
            return holding[name]
    if set(schema.names) >= _OF_A_RESULT:
        raise UserError(f"{shown} is a result of `zoo extract` and holds no images: give the images")
    if len(holding) == 1:
        return next(iter(holding.values()))
    for name in (*IMAGE_COLUMNS, *_PATH_COLUMNS):
        if not holding and name in schema.names and _is_text(schema.field(name).type):
            return ImageColumn(name)
    known = ", ".join(IMAGE_COLUMNS)
    raise UserError(f"{shown} has no image column ({known}): name it with --image-column; it has {has}")


def _holding(name: str, type: pa.DataType) -> ImageColumn | None:
    if _is_bytes(type):
        return ImageColumn(name)
    if _is_field(type, "bytes") and _is_bytes(type.field("bytes").type):
        has_path = _is_field(type, "path") and _is_text(type.field("path").type)
        return ImageColumn(name, ("bytes", "path") if has_path else ("bytes",))
    return None


def _is_field(type: pa.DataType, name: str) -> bool:
    return bool(pa.types.is_struct(type) and type.get_field_index(name) >= 0)


def _is_bytes(type: pa.DataType) -> bool:
    type = type.value_type if pa.types.is_dictionary(type) else type
    return bool(pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_binary_view(type))


def _is_text(type: pa.DataType) -> bool:
    type = type.value_type if pa.types.is_dictionary(type) else type
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type))


def _short(type: pa.DataType) -> str:
    text = str(type)
    return text if len(text) <= _MAX_TYPE else text.partition("<")[0]


def value_of(row: object) -> bytes | ImagePath | None:
    """Return the bytes or the path in a row as Arrow gives it: bytes, a text, or a dict of both."""
    if isinstance(row, dict):
        held = row.get("bytes") or row.get("path")
        row = held if held is not None else next(iter(row.values()), None)
    if isinstance(row, str):
        return ImagePath(os.fsencode(row)) if row else None
    return row if isinstance(row, bytes) else None


def split_column(schema: pa.Schema, name: str) -> tuple[str, str]:
    """Split ``meta.label`` into a struct and its field, unless a column has this very name, as pandas flattens JSON."""
    top, _, part = (name, "", "") if name in schema.names else name.partition(".")
    return top, part
