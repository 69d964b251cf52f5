"""Images as bytes in a column of Parquet files, or of the Arrow files that Hugging Face datasets saves."""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo.errors import UserError, reason_of
from zoo.sources.base import IN_CONTAINER, ImageRow, container_of, require_single
from zoo.sources.file_listing import Listing
from zoo.sources.image_files import PathReader
from zoo.sources.storage import Local, Storage, is_url
from zoo.system.parquet import PageChecks
from zoo.transforms.limits import MAX_BYTES
from zoo.transforms.unreadable import UnreadableImage

_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
_PATH_COLUMNS = ("path", "file_name", "filename", "filepath", "file_path", "image_path")
_OF_A_RESULT = {"path_bytes", "status", "embedding"}  # columns of `zoo extract`, whose paths begin elsewhere
_MAX_TYPE = 40  # characters of a type in a message
_ROWS = 16  # read at once; with the batches kept they are more than the threads work on
_BATCHES_KEPT = 16
_KEPT_ROWS_AT_ONCE = 65536


class TableFiles:
    """The rows of tables, in their order. The name of an image is that of the file, '/', and its row number from 0.

    The image column is ``image``, ``img``, ``jpg``, ``bytes`` and the like, or else the only one with bytes; Hugging
    Face's ``{bytes, path}`` is such a column. Where no column holds bytes it is one of paths: ``image``, ``path``,
    ``file_name``. A row with a path and no bytes is read from that file, relative to the table; a change of it is not
    noticed. Every other column of numbers, texts or booleans can be kept, and a field of a struct as ``image.path``.

    Args:
        image_column: name of the image column, ``None`` finds it.
    """

    def __init__(
        self, where: Storage, files: Sequence[bytes], keep: Sequence[str] = (), image_column: str | None = None
    ) -> None:
        self._storage = where
        self._files = list(files)
        self._keep = list(keep)
        self._image_column = image_column
        self._cursor = _Cursor(where, image_column)
        self._reader = PathReader(where)

    def require_columns(self) -> None:
        """Look at the columns of the first table; see ``Source``."""
        if self._keep:
            with self._opened(self._files[0]):
                pass

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the images; see ``Source``."""
        tables = [table for file in self._files if len(table := self._of_file(file))]
        if not tables:
            raise UserError(f"no row in {self._storage.root}{os.fsdecode(self._files[0])}")
        try:
            return Listing(pa.concat_tables(tables), 0, 0)
        except pa.ArrowInvalid:
            raise UserError(f"the files of {self._storage.root} have kept columns of different types") from None

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of an image; see ``Source``."""
        container = container_of(row)
        found = self._cursor.read(container, row["offset"], row["mtime_ns"])
        if isinstance(found, bytes):
            return found
        # A path, relative to the table.
        path = found.path if is_url(found.path) else os.path.join(os.path.dirname(container), found.path)
        return self._reader.read(path, *self._reader.size_and_time(path))

    @contextmanager
    def _opened(self, name: bytes) -> Iterator[tuple[_Parquet | _Arrow, int]]:
        """Open a table and check that it has the image column and those to keep. Yield it and its modification time.

        Raises UserError, also for what happens inside.
        """
        shown = self._storage.root + os.fsdecode(name)
        try:
            mtime_ns = self._storage.size_and_time(name)[1]
            with ExitStack() as stack:
                file = _open(self._storage, name, stack)
                wanted = [_split(file.schema, column)[0] for column in self._keep]
                require_single(file.schema.names, [*wanted, *_IMAGE_COLUMNS, self._image_column or ""], shown)
                _image_column(file.schema, shown, self._image_column)
                for column in self._keep:
                    _require(file.schema, column, shown)
                yield file, mtime_ns
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"no table at {shown}") from None
        except OSError as error:
            raise UserError(f"{shown} cannot be read: {error.strerror or reason_of(error)}") from None
        except Exception as error:  # what Arrow raises for damaged bytes is not a closed set
            raise UserError(f"{shown} is no readable table ({reason_of(error)}): write or download it again") from None

    def _of_file(self, name: bytes) -> pa.Table:
        # Open the table only for its schema, length and kept columns.
        with self._opened(name) as (file, mtime_ns):
            kept = _kept_columns(file, self._keep, self._storage.root + os.fsdecode(name))
            n = file.rows
        # Name each row by its table and its number.
        numbers = pa.array(range(n), pa.int64())
        paths = pc.binary_join_element_wise(pa.scalar(name + b"/"), numbers.cast(pa.string()).cast(pa.binary()), b"")
        same = [pa.repeat(pa.scalar(value, type), n) for value, type in ((-1, pa.int64()), (mtime_ns, pa.int64()))]
        inside = pa.repeat(pa.scalar(len(name), pa.int32()), n)
        return pa.table(
            [paths, *same, inside, numbers, *kept],
            schema=pa.schema([*IN_CONTAINER, *((k, c.type) for k, c in zip(self._keep, kept, strict=True))]),
        )


class _Parquet:
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


class _Arrow:
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
                picked = batch.select(list(dict.fromkeys(_split(self.schema, name)[0] for name in columns)))
                picked.validate(full=True)  # offsets may lead outside of the file
                yield from (picked.slice(at, n) for at in range(0, picked.num_rows, n))

    def _stream(self) -> pa.RecordBatchReader:
        self._file.seek(0)
        return pa.ipc.open_stream(self._file)


def _open(where: Storage, name: bytes, stack: ExitStack) -> _Parquet | _Arrow:
    file = stack.enter_context(where.open(name))
    if not name.lower().endswith(b".arrow"):
        return _Parquet(file, is_near=isinstance(where, Local))
    if isinstance(where, Local):
        return _Arrow(stack.enter_context(pa.memory_map(os.path.join(os.fsencode(where.root), name))))
    return _Arrow(stack.enter_context(pa.PythonFile(file, mode="r")))


class _ImageColumn(NamedTuple):
    """What to read of a row: a column, and the fields of it where it is a struct; a text is a path."""

    name: str
    fields: tuple[str, ...] = ()

    @property
    def parts(self) -> list[str]:
        """The columns as Parquet names them."""
        return [f"{self.name}.{field}" for field in self.fields] or [self.name]


class _Path(NamedTuple):
    """The path in a row that holds no bytes."""

    path: bytes


def _image_column(schema: pa.Schema, shown: str, wanted: str | None = None) -> _ImageColumn:
    """Return the image column. Raises UserError, which lists the columns that are there."""
    holding = {name: found for name in schema.names if (found := _holding(name, schema.field(name).type))}
    has = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema)
    if wanted is not None:
        top, _, part = wanted.partition(".")
        if top in schema.names and part and _is_field(schema.field(top).type, part):
            return _ImageColumn(top, (part,))
        if wanted in holding:
            return holding[wanted]
        if wanted in schema.names and _is_text(schema.field(wanted).type):
            return _ImageColumn(wanted)
        raise UserError(f"{shown} has no column {wanted} of images, bytes or paths; it has {has}")
    # By its name among those with bytes, the only one, or by its name among those with paths.
    for name in _IMAGE_COLUMNS:
        if name in holding:
            return holding[name]
    if set(schema.names) >= _OF_A_RESULT:
        raise UserError(f"{shown} is a result of `zoo extract` and holds no images: give the images")
    if len(holding) == 1:
        return next(iter(holding.values()))
    for name in (*_IMAGE_COLUMNS, *_PATH_COLUMNS):
        if not holding and name in schema.names and _is_text(schema.field(name).type):
            return _ImageColumn(name)
    known = ", ".join(_IMAGE_COLUMNS)
    raise UserError(f"{shown} has no image column ({known}): name it with --image-column; it has {has}")


def _holding(name: str, type: pa.DataType) -> _ImageColumn | None:
    if _is_bytes(type):
        return _ImageColumn(name)
    if _is_field(type, "bytes") and _is_bytes(type.field("bytes").type):
        has_path = _is_field(type, "path") and _is_text(type.field("path").type)
        return _ImageColumn(name, ("bytes", "path") if has_path else ("bytes",))
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


def _value_of(row: object) -> bytes | _Path | None:
    """Return the bytes or the path in a row as Arrow gives it: bytes, a text, or a dict of both."""
    if isinstance(row, dict):
        held = row.get("bytes") or row.get("path")
        row = held if held is not None else next(iter(row.values()), None)
    if isinstance(row, str):
        return _Path(os.fsencode(row)) if row else None
    return row if isinstance(row, bytes) else None


def _kept_columns(file: _Parquet | _Arrow, keep: list[str], shown: str) -> list[pa.ChunkedArray]:
    if not keep:
        return []
    pieces: list[list[pa.Array]] = [[] for _ in keep]
    for group in range(len(file.groups)):
        for batch in file.batches(group, keep, _KEPT_ROWS_AT_ONCE):
            for piece, name in zip(pieces, keep, strict=True):
                piece.append(_plain(_column(batch, name), name, shown))
    return [pa.chunked_array(piece) for piece in pieces]


def _require(schema: pa.Schema, name: str, shown: str) -> None:
    top, part = _split(schema, name)
    known = top in schema.names
    if known and part:
        type = schema.field(top).type
        known = pa.types.is_struct(type) and type.get_field_index(part) >= 0
    if not known:
        raise UserError(f"{shown} has no column {name}; it has {', '.join(schema.names)}")


def _split(schema: pa.Schema, name: str) -> tuple[str, str]:
    """Split ``meta.label`` into a struct and its field, unless a column has this very name, as pandas flattens JSON."""
    top, _, part = (name, "", "") if name in schema.names else name.partition(".")
    return top, part


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    top, part = _split(batch.schema, name)
    column = batch.column(top)
    return pc.struct_field(column, part) if part else column


def _plain(column: pa.Array, name: str, shown: str) -> pa.Array:
    types = pa.types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_null(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type):
        return column.cast(pa.string())
    if types.is_string(column.type) or types.is_integer(column.type) or types.is_boolean(column.type):
        return column
    if types.is_floating(column.type):
        return column.cast(pa.float32()) if types.is_float16(column.type) else column
    raise UserError(f"{shown}: column {name} is {column.type}; only numbers, texts and booleans can be kept")


class _Cursor:
    """Read rows for several threads, in nearly ascending order, with a few batches in memory.

    Each row group starts a new batch, so the rows lost to a damaged row group do not depend on where reading began.
    """

    def __init__(self, where: Storage, image_column: str | None) -> None:
        # The table that is open, if any: one at a time.
        self._storage = where
        self._wanted = image_column
        self._lock = threading.Lock()
        self._stack = ExitStack()
        weakref.finalize(self, self._stack.close)
        self._opened: tuple[bytes, int] | None = None
        self._file: _Parquet | _Arrow | None = None
        self._column = _ImageColumn("")
        self._group = -1
        self._next = 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._kept: deque[tuple[int, pa.Array]] = deque(maxlen=_BATCHES_KEPT)
        self._broken: dict[tuple[bytes, int], tuple[int, str]] = {}

    def read(self, container: bytes, row: int, mtime_ns: int) -> bytes | _Path:
        """Return the bytes in a row, or its path. Raises UnreadableImage."""
        with self._lock:
            value = self._value(container, row, mtime_ns)
        if value is None:
            raise UnreadableImage("empty", "the row holds no image bytes and no path")
        if isinstance(value, bytes) and len(value) > MAX_BYTES:
            raise UnreadableImage("too-large", f"{len(value)} bytes, more than {MAX_BYTES}")
        return value

    def _value(self, container: bytes, row: int, mtime_ns: int) -> bytes | _Path | None:
        # Open the row's table unless it is open already.
        if self._opened != (container, mtime_ns):
            self._open(container, mtime_ns)
        elif isinstance(self._storage, Local):  # over a network it would be a request for each row
            self._require_unchanged(container, mtime_ns)
        assert self._file is not None
        # Refuse at once what an earlier read found broken.
        group = bisect_right(self._file.groups, row) - 1
        first, detail = self._broken.get((container, group), (row + 1, ""))
        if row >= first:
            raise UnreadableImage("corrupt", detail)
        # Read on to the row, and remember where that fails.
        try:
            return self._found(self._file, group, row)
        except StopIteration:
            raise UnreadableImage("changed", "fewer rows than when the run began") from None
        except Exception as error:  # what Arrow raises for damaged bytes is not a closed set
            detail = f"the table cannot be read from row {self._next} on ({reason_of(error)})"
            self._broken[container, group] = self._next, detail
            self._group = -1
            raise UnreadableImage("corrupt", detail) from error

    def _open(self, container: bytes, mtime_ns: int) -> None:
        # Close the previous table.
        self._opened, self._group = None, -1
        self._stack.close()
        self._kept.clear()
        self._require_unchanged(container, mtime_ns)
        # Open it, and find its images.
        try:
            self._file = _open(self._storage, container, self._stack)
            self._column = _image_column(self._file.schema, "", self._wanted)
        except Exception as error:  # not a closed set either
            raise UnreadableImage("corrupt", f"the table cannot be opened ({reason_of(error)})") from error
        self._opened = container, mtime_ns

    def _require_unchanged(self, container: bytes, mtime_ns: int) -> None:
        """Check that a table is still the one that was listed. Raises UnreadableImage."""
        size, now = self._storage.size_and_time(container)
        if (size, now) == (-1, -1):
            raise UnreadableImage("missing", "no such file")
        if now != mtime_ns:
            raise UnreadableImage("changed", "another modification time than when the run began")

    def _found(self, file: _Parquet | _Arrow, group: int, row: int) -> bytes | _Path | None:
        # Start a group anew where the row lies elsewhere or was passed already.
        if group != self._group or row < (self._kept[0][0] if self._kept else self._next):
            if kept := self._in_kept(row):  # a row of the previous group
                return kept[0]
            if group != self._group + 1:
                self._kept.clear()
            self._group, self._next = group, file.groups[group]
            self._batches = file.batches(group, self._column.parts, _ROWS)
        # Read forward until the row's batch, and keep only the batches near it.
        while row >= self._next:
            batch = next(self._batches)
            if row < self._next + batch.num_rows + _ROWS * _BATCHES_KEPT:
                self._kept.append((self._next, batch.column(self._column.name)))
            self._next += batch.num_rows
        return self._in_kept(row)[0]

    def _in_kept(self, row: int) -> list[bytes | _Path | None]:
        for first, column in self._kept:
            if first <= row < first + len(column):
                found = column[row - first].as_py()
                fields = self._column.fields
                return [_value_of({name: found.get(name) for name in fields} if fields and found else found)]
        return []
