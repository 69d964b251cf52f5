"""Read Parquet files whole, on the calling thread, after a look at how much memory they would take."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# A table may take so much memory. The paths of a plan compress up to 40 times; 60 kB can hold gigabytes of one text.
_FREE_BYTES = 128 << 20
_MAX_EXPANSION = 64
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED", "DELTA_LENGTH_BYTE_ARRAY"}  # encodings that store each text once per mention
_DELTA = "DELTA_BYTE_ARRAY"  # stores what a text does not share with the one before it
_PROBED_BYTES = 32 << 20


def read_table(source: Path | bytes, columns: list[str] | None = None, *, checked: bool = False) -> pa.Table:
    """Read the table in a file or in its bytes.

    Arrow's threads read nothing ahead and decode nothing: a thread that still holds bytes of Python when the
    interpreter ends aborts the process. The file is opened here, because Arrow refuses paths that are not UTF-8.

    Args:
        columns: the columns to read; those that are not there are left out. ``None`` is all.
        checked: check the pages against their checksums.

    Raises:
        OSError: the file cannot be read.
        pa.ArrowException: the bytes are damaged, or would take more than 128 MB and 64 times the file; Arrow also
            raises other kinds for damage.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=checked)
        _require_memory(file, parquet, columns)
        return parquet.read(columns=columns, use_threads=False)


def _require_memory(file: BinaryIO, parquet: pq.ParquetFile, columns: list[str] | None) -> None:
    """Raise pa.ArrowInvalid where the columns would take more memory than the file's size allows."""
    limit = _FREE_BYTES + _MAX_EXPANSION * file.seek(0, os.SEEK_END)
    needed = 0
    probed = []
    for leaf in range(len(parquet.schema)):
        column = parquet.schema.column(leaf)
        if columns is not None and not any(f"{column.path}.".startswith(f"{name}.") for name in columns):
            continue
        # Sum up over the row groups what the metadata say.
        chunks = [parquet.metadata.row_group(g).column(leaf) for g in range(parquet.num_row_groups)]
        values = sum(chunk.num_values for chunk in chunks)
        stored = sum(chunk.total_uncompressed_size for chunk in chunks)
        width = column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(column.physical_type)
        if min((values, stored), default=0) < 0:
            raise pa.ArrowInvalid("a column of a negative size")
        needed += max(stored, values * (width or 4))
        # A dictionary stores a text once, however many rows have it: the product bounds what they take.
        is_text, encodings = width is None, {e for chunk in chunks for e in chunk.encodings}
        if is_text and not encodings <= _PLAIN and values * stored > limit:
            per_value = stored if _DELTA in encodings else stored // values
            probed.append((column.path, max(1, _PROBED_BYTES // max(1, per_value)), _DELTA not in encodings))
    for path, rows, has_dictionary in probed:
        if needed <= limit:
            needed += _text_bytes(file, path, rows, has_dictionary, limit)
    if needed > limit:
        raise pa.ArrowInvalid(f"its columns would take more than {limit >> 20} MB of memory, far more than the file")


def _text_bytes(file: BinaryIO, path: str, rows: int, has_dictionary: bool, limit: int) -> int:
    """Return the bytes that the texts of a column take without their dictionary, or a number above ``limit``.

    Args:
        rows: number of rows to hold in memory at a time.
    """
    file.seek(0)
    total = 0
    encoded = pq.ParquetFile(file, pre_buffer=False, read_dictionary=[path] if has_dictionary else None)
    for batch in encoded.iter_batches(min(rows, 1 << 20), columns=[path], use_threads=False):
        total += _decoded_bytes(batch.column(0))
        if total > limit:
            break
    return total


def _decoded_bytes(array: pa.Array) -> int:
    if pa.types.is_struct(array.type):
        return sum(_decoded_bytes(field) for field in array.flatten())
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_map(array.type):
        return sum(_decoded_bytes(field) for field in [array.flatten()])
    if not pa.types.is_dictionary(array.type):
        return int(array.nbytes)
    lengths = pc.binary_length(array.dictionary)
    return int(pc.sum(lengths.cast(pa.int64()).take(array.indices)).as_py() or 0)
