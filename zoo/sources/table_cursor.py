"""Read the images of tables row by row, for several threads, without opening a table or reading a batch twice."""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack

import pyarrow as pa

from zoo.errors import reason_of
from zoo.sources.storage import Local, Storage
from zoo.sources.tables import ArrowTable, ImageColumn, ImagePath, ParquetTable, image_column_of, open_table, value_of
from zoo.transforms.limits import MAX_BYTES
from zoo.transforms.unreadable import UnreadableImage

_ROWS = 16  # read at once; with the batches kept they are more than the threads work on
_BATCHES_KEPT = 16


class TableCursor:
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
        self._file: ParquetTable | ArrowTable | None = None
        self._column = ImageColumn("")
        self._group = -1
        self._next = 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._kept: deque[tuple[int, pa.Array]] = deque(maxlen=_BATCHES_KEPT)
        self._broken: dict[tuple[bytes, int], tuple[int, str]] = {}

    def read(self, container: bytes, row: int, mtime_ns: int) -> bytes | ImagePath:
        """Return the bytes in a row, or its path. Raises UnreadableImage."""
        with self._lock:
            value = self._value(container, row, mtime_ns)
        if value is None:
            raise UnreadableImage("empty", "the row holds no image bytes and no path")
        if isinstance(value, bytes) and len(value) > MAX_BYTES:
            raise UnreadableImage("too-large", f"{len(value)} bytes, more than {MAX_BYTES}")
        return value

    def _value(self, container: bytes, row: int, mtime_ns: int) -> bytes | ImagePath | None:
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
            self._file = open_table(self._storage, container, self._stack)
            self._column = image_column_of(self._file.schema, "", self._wanted)
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

    def _found(self, file: ParquetTable | ArrowTable, group: int, row: int) -> bytes | ImagePath | None:
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

    def _in_kept(self, row: int) -> list[bytes | ImagePath | None]:
        for first, column in self._kept:
            if first <= row < first + len(column):
                found = column[row - first].as_py()
                fields = self._column.fields
                return [value_of({name: found.get(name) for name in fields} if fields and found else found)]
        return []
