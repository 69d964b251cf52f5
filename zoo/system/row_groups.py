"""Read a Parquet file by its row groups: a table of any length in the memory of two of them."""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zoo.system.parquet import require_memory

_KEPT = 2  # groups in memory: a slice may cross from one into the next


class RowGroups:
    """The table in a Parquet file, of which two row groups are in memory at a time. Threads may read at once.

    It has what callers need of a ``pa.Table``: ``schema``, ``num_rows``, ``slice``. The file stays open, so the rows
    are those of the file that was opened, also after another one took its name.

    Raises:
        OSError: the file cannot be read.
        pa.ArrowException: the bytes are damaged, or a column would take far more memory than the file; Arrow also
            raises other kinds for damage. ``slice`` raises the same.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        weakref.finalize(self, self._file.close)
        self._parquet = pq.ParquetFile(self._file, pre_buffer=False, page_checksum_verification=True)
        require_memory(self._file, None)
        groups = (self._parquet.metadata.row_group(n).num_rows for n in range(self._parquet.num_row_groups))
        self._starts: list[int] = list(accumulate(groups, initial=0))
        self._read: OrderedDict[tuple[int, tuple[str, ...] | None], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns, with the metadata of the file."""
        schema: pa.Schema = self._parquet.schema_arrow
        return schema

    @property
    def num_rows(self) -> int:
        """Number of rows of all groups."""
        return self._starts[-1]

    @property
    def groups(self) -> int:
        """Number of row groups."""
        return len(self._starts) - 1

    def slice(self, start: int, length: int, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Return at most ``length`` rows from the row ``start`` on; ``columns`` reads only these."""
        end = min(start + length, self.num_rows)
        parts: list[pa.Table] = []
        for group in range(bisect_right(self._starts, start) - 1, self.groups):
            first = self._starts[group]
            if first >= end and parts:
                break
            inside = max(start, first) - first
            parts.append(self._group(group, columns).slice(inside, max(0, end - first - inside)))
        return pa.concat_tables(parts) if parts else self.schema.empty_table()

    def read(self, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Return the whole table, or some columns of it."""
        return pa.concat_tables(self._decoded(group, columns) for group in range(self.groups)).combine_chunks()

    def _group(self, group: int, columns: tuple[str, ...] | None) -> pa.Table:
        with self._lock:
            if (group, columns) not in self._read:
                while len(self._read) >= _KEPT:
                    self._read.popitem(last=False)
                self._read[group, columns] = self._decoded(group, columns)
            self._read.move_to_end((group, columns))
            return self._read[group, columns]

    def _decoded(self, group: int, columns: tuple[str, ...] | None) -> pa.Table:
        return self._parquet.read_row_group(
            group, columns=None if columns is None else list(columns), use_threads=False
        )


def open_rows(path: Path) -> pa.Table | RowGroups:
    """Open the table in a Parquet file; one of a single row group is read, and its file closed.

    Raises as ``RowGroups``.
    """
    rows = RowGroups(path)
    if rows.groups > 1:
        return rows
    with rows._file:
        return rows._decoded(0, None) if rows.groups else rows.schema.empty_table()
