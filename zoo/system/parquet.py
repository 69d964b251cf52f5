"""Read Parquet files whole, on the calling thread."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(source: Path | bytes, columns: list[str] | None = None, *, checked: bool = False) -> pa.Table:
    """Read the table in a file or in its bytes.

    Arrow's threads read nothing ahead and decode nothing: a thread that still holds bytes of Python when the
    interpreter ends aborts the process. The file is opened here, because Arrow refuses paths that are not UTF-8.

    Args:
        columns: the columns to read; those that are not there are left out. ``None`` is all.
        checked: check the pages against their checksums.

    Raises:
        OSError: the file cannot be read.
        pa.ArrowException: the bytes are damaged; Arrow also raises other kinds for that.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=checked)
        return parquet.read(columns=columns, use_threads=False)
