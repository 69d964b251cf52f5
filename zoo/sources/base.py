"""The interface of a source of images: a table of rows, the same for the same place, and the bytes of each row."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.sources.file_listing import FILES, ROWS_AT_ONCE, Listing

IN_CONTAINER = pa.schema([*FILES, ("inside", pa.int32()), ("offset", pa.int64())])
"""``FILES`` for images inside other files. ``inside`` is the number of bytes of ``path`` that name the container;
``offset`` is the place of the image in it: a byte of a tar file, a row of a table. ``mtime_ns`` is the container's."""

_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]{0,8})\.([0-9]{0,5}[1-9]|0)$"  # at most 15 digits: exact in float64

_HASHED_AT_ONCE = 65536
_LARGE_FILE = 32 * 1024 * 1024  # bytes
_one_large_file = threading.Lock()


class ImageRow(TypedDict):
    """A row of ``Source.listing`` as Python objects, without the columns that are kept."""

    path: bytes
    size: int
    mtime_ns: int
    inside: NotRequired[int]
    offset: NotRequired[int]


class Source(Protocol):
    """Images in some order, each with a name that is unique and kept byte for byte."""

    def require_columns(self) -> None:
        """Raise UserError where a folder has no image, or the head of a file tells that a column to keep is missing.

        ``listing`` finds the rest.

        It takes far less than a second on a local disk, so that a typing error is told before a model is downloaded.
        """

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """List the images: schema ``FILES`` or ``IN_CONTAINER``, then a column for each that is kept.

        Args:
            without: folders that hold no input (the output).

        Raises:
            UserError: nothing is there, it cannot be read, it has no image, or it has no such column.
        """

    def read(self, row: ImageRow) -> bytes:
        """Return the bytes of the image in a row of ``listing``. Threads may call it at the same time.

        Raises:
            UnreadableImage: the bytes cannot be read, or are not those that were listed.
        """


def rows_of(files: pa.Table, wanted: NDArray[np.int64]) -> Iterator[ImageRow]:
    """Yield rows of a listing by their numbers."""
    for first in range(0, len(wanted), ROWS_AT_ONCE):
        yield from files.take(wanted[first : first + ROWS_AT_ONCE]).to_pylist()


def one_large_file(row: ImageRow) -> AbstractContextManager[object]:
    """A lock that lets one large file be in memory at a time; small files pass freely.

    Without it each of the threads that decode could hold a large file.
    """
    return _one_large_file if row["size"] > _LARGE_FILE else nullcontext()


def narrowed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast a text column to int64 or float64 if every value is written exactly as that number prints.

    ``007`` and ``0.50`` therefore stay text. Nulls fit either type; a column of nulls only stays text.
    """
    if column.null_count == len(column):
        return column
    if pc.all(pc.match_substring_regex(column, _WHOLE)).as_py():
        return column.cast(pa.int64())
    if pc.all(pc.match_substring_regex(column, _DECIMAL)).as_py():
        return column.cast(pa.float64())
    return column


def texts(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Cast a column of bytes to text. Raises UserError for bytes that are not UTF-8."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        raise UserError(f"column {name} is not UTF-8 text: it cannot be kept") from None


def require_single(names: Sequence[str], wanted: Iterable[str], shown: object) -> None:
    """Raise UserError where a column that is wanted stands twice in a table: nobody knows which is meant."""
    for name in wanted:
        if names.count(name) > 1:
            raise UserError(f"{shown} has {names.count(name)} columns {name!r}: rename all but one")


def require_unique(table: pa.Table, where: str) -> pa.Table:
    """Return the table. Raises UserError if two rows have the same path."""
    # A hash table of the paths would take twice their memory; their hashes take 8 bytes each.
    hashes = np.empty(len(table), np.int64)
    for start in range(0, len(table), _HASHED_AT_ONCE):
        paths = table["path"].slice(start, _HASHED_AT_ONCE).to_pylist()
        hashes[start : start + len(paths)] = np.fromiter(map(hash, paths), np.int64, len(paths))
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(again):  # different paths can share a hash
        suspects = table["path"].take(pa.array(np.flatnonzero(np.isin(hashes, again)))).to_pylist()
        for path, count in Counter(suspects).items():
            if count > 1:
                name = path.decode(errors="backslashreplace")
                raise UserError(f"{where} holds two images called {name!r}: give each a name of its own")
    return table


def container_of(row: ImageRow) -> bytes:
    """Return the path of the file that holds the image of a row with the schema ``IN_CONTAINER``."""
    return row["path"][: row["inside"]]


def require_listing(files: pa.Table) -> None:
    """Raise ValueError where the columns are none of a listing: other types, a null, a container that ends nowhere."""
    own = IN_CONTAINER if "inside" in files.schema.names else FILES
    if files.schema.names[: len(own)] != own.names:
        raise ValueError("other columns")
    require_rows(files.schema, own, files)
    if own is IN_CONTAINER and len(files):
        inside = files["inside"].to_numpy()
        if inside.min() < 0 or (inside > pc.binary_length(files["path"]).to_numpy()).any():
            raise ValueError("a container is no part of a path")


def require_rows(found: pa.Schema, wanted: pa.Schema | pa.Field, table: pa.Table) -> None:
    """Raise ValueError where a column that is wanted has another type or lacks a value."""
    for field in [wanted] if isinstance(wanted, pa.Field) else wanted:
        if found.field(field.name).type != field.type or table[field.name].null_count:
            raise ValueError(f"column {field.name} has another type or lacks a value")
