"""What extraction needs of a place that holds images: a table of rows, the same for the same place, and the bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from zoo.errors import UserError, reason_of
from zoo.sources.file_listing import FILES, Listing

IN_CONTAINER = pa.schema([*FILES, ("inside", pa.int32()), ("offset", pa.int64())])
"""``FILES`` for images inside other files: ``inside`` is how many bytes of ``path`` name the container, and
``offset`` where in it the image is: a byte of a tar file, a row of a table. ``mtime_ns`` is the container's."""

_ROWS_AT_ONCE = 4096  # rows are far smaller in Arrow than as Python objects, so few exist as such at a time
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]{0,8})\.([0-9]{0,5}[1-9]|0)$"  # at most 15 digits: exact in float64


class Source(Protocol):
    """Images in some order, each with a name that is unique and kept byte for byte."""

    def listing(self, *, without: Collection[Path] = ()) -> Listing:
        """One row per image, schema ``FILES`` or ``IN_CONTAINER``, then a column for each that is kept.

        Args:
            without: folders that hold no input (the output).

        Raises:
            UserError: nothing there, not readable, no image, or no such column.
        """

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The bytes of the image in a row of ``listing``; from any thread. Raises UnreadableImage."""


def collect(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Rows that come one by one as a table; few of them are Python objects at a time."""
    rows, batches = iter(rows), []
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        batches.append(pa.record_batch([list(column) for column in zip(*batch, strict=True)], schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def narrowed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as int64 or float64 where every value is one and is written just as that number prints, else as it is.

    So ``007`` and ``0.50`` stay what they are. Nulls count as either; nothing but nulls stays text.
    """
    if column.null_count == len(column):
        return column
    if pc.all(pc.match_substring_regex(column, _WHOLE)).as_py():
        return column.cast(pa.int64())
    if pc.all(pc.match_substring_regex(column, _DECIMAL)).as_py():
        return column.cast(pa.float64())
    return column


def texts(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Bytes as text. UserError if they are not UTF-8."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        raise UserError(f"column {name} is not UTF-8 text: it cannot be kept") from None


def require_unique(table: pa.Table, where: str) -> pa.Table:
    """The table, if no two rows have one path. UserError else."""
    counts = pc.value_counts(table["path"].combine_chunks())
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        name = twice[0].as_py().decode(errors="backslashreplace")
        raise UserError(f"{where} holds two images called {name!r}: give each a name of its own")
    return table


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, without memory addresses and URLs."""
    return reason_of(error, reproducible=True)
