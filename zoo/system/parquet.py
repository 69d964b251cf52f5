"""Parquet files of a result, read whole and on the calling thread."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(source: Path | bytes, columns: list[str] | None = None, *, checked: bool = False) -> pa.Table:
    """The table in a file or in its bytes, or some ``columns`` of it (those that are not there are left out).

    Nothing is read ahead or decoded on Arrow's threads: one that still holds bytes of Python's when the interpreter
    ends aborts the process. And a path may be of any bytes, which Arrow's own files refuse.

    Args:
        checked: also hold the pages against their checksums.

    Raises:
        OSError, pa.ArrowException, and others of Arrow's for damaged bytes.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=checked)
        return parquet.read(columns=columns, use_threads=False)
