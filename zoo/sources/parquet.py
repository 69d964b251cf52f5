"""Images as bytes in a column of Parquet files, or of the Arrow files that Hugging Face datasets saves."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from zoo.errors import UserError, reason_of
from zoo.sources.base import IN_CONTAINER, ImageRow, container_of, require_single
from zoo.sources.file_listing import Listing
from zoo.sources.image_files import PathReader
from zoo.sources.storage import Storage, is_url
from zoo.sources.table_cursor import TableCursor
from zoo.sources.tables import IMAGE_COLUMNS, ArrowTable, ParquetTable, image_column_of, open_table, split_column

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
        self._cursor = TableCursor(where, image_column)
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
    def _opened(self, name: bytes) -> Iterator[tuple[ParquetTable | ArrowTable, int]]:
        """Open a table and check that it has the image column and those to keep. Yield it and its modification time.

        Raises UserError, also for what happens inside.
        """
        shown = self._storage.root + os.fsdecode(name)
        try:
            mtime_ns = self._storage.size_and_time(name)[1]
            with ExitStack() as stack:
                file = open_table(self._storage, name, stack)
                wanted = [split_column(file.schema, column)[0] for column in self._keep]
                require_single(file.schema.names, [*wanted, *IMAGE_COLUMNS, self._image_column or ""], shown)
                image_column_of(file.schema, shown, self._image_column)
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


def _kept_columns(file: ParquetTable | ArrowTable, keep: list[str], shown: str) -> list[pa.ChunkedArray]:
    if not keep:
        return []
    pieces: list[list[pa.Array]] = [[] for _ in keep]
    for group in range(len(file.groups)):
        for batch in file.batches(group, keep, _KEPT_ROWS_AT_ONCE):
            for piece, name in zip(pieces, keep, strict=True):
                piece.append(_plain(_column(batch, name), name, shown))
    return [pa.chunked_array(piece) for piece in pieces]


def _require(schema: pa.Schema, name: str, shown: str) -> None:
    top, part = split_column(schema, name)
    known = top in schema.names
    if known and part:
        type = schema.field(top).type
        known = pa.types.is_struct(type) and type.get_field_index(part) >= 0
    if not known:
        raise UserError(f"{shown} has no column {name}; it has {', '.join(schema.names)}")


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    top, part = split_column(batch.schema, name)
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
