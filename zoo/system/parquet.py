"""Read Parquet files whole, on the calling thread, after a look at how much memory they would take."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo.errors import reason_of
from zoo.system.parquet_footer import LeafColumn, leaf_columns
from zoo.system.parquet_pages import require_pages

# A table may take so much memory. The paths of a plan compress up to 40 times; 60 kB can hold gigabytes of one text.
_FREE_BYTES = 128 << 20
_MAX_EXPANSION = 64
_FREE_ROWS, _ROWS_PER_BYTE = 1_000_000, 4  # names of a million images compress to a few bytes each
# Numbers of parquet.thrift: bytes of a BOOLEAN, INT32, INT64, INT96, FLOAT and DOUBLE.
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
_PLAIN = {0, 3, 4, 6}  # PLAIN, RLE, BIT_PACKED, DELTA_LENGTH_BYTE_ARRAY store a text each time
_DELTA = 7  # DELTA_BYTE_ARRAY stores what a text does not share with the one before it
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
        require_memory(file, columns)
        return parquet.read(columns=columns, use_threads=False)


def require_memory(file: BinaryIO, columns: list[str] | None) -> None:
    """Raise pa.ArrowInvalid where the columns would take more memory than the file's size allows."""
    limit = _FREE_BYTES + _MAX_EXPANSION * file.seek(0, os.SEEK_END)
    needed = 0
    probed = []
    try:
        leaves = leaf_columns(file)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise pa.ArrowInvalid(f"its footer is damaged: {reason_of(error)}") from None
    for leaf in leaves:
        if columns is not None and leaf.path[0] not in columns:
            continue
        # A number takes its width for each value, a text at least an offset.
        width = leaf.length or _WIDTHS.get(leaf.physical_type)
        needed += max(leaf.uncompressed, leaf.values * (width or 4))
        # A dictionary stores a text once, however many rows have it: the product bounds what they take.
        if width is None and not leaf.encodings <= _PLAIN and leaf.values * leaf.uncompressed > limit:
            probed.append(leaf)
    if needed <= limit:
        _require_pages(file, [leaf for leaf in leaves if columns is None or leaf.path[0] in columns])
    for leaf in probed:
        if needed <= limit:
            needed += _text_bytes(file, leaf, limit)
    if needed > limit:
        raise pa.ArrowInvalid(f"its columns would take more than {limit >> 20} MB of memory, far more than the file")


def _require_pages(file: BinaryIO, leaves: list[LeafColumn], group: int | None = None) -> None:
    try:
        for leaf in leaves:
            for chunk in leaf.chunks:
                if group is None or chunk.group == group:
                    require_pages(file, chunk, leaf.length or _WIDTHS.get(leaf.physical_type) or 4)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise pa.ArrowInvalid(f"its pages are damaged: {reason_of(error)}") from None


class PageChecks:
    """The checks of a file that is read in batches, a row group at a time.

    Attributes:
        rows: most rows that a file of this size may have.

    Raises:
        pa.ArrowInvalid: the footer is damaged, or claims a page far larger than the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        size = file.seek(0, os.SEEK_END)
        self._file, self._limit = file, _FREE_BYTES + _MAX_EXPANSION * size
        try:
            self._leaves = leaf_columns(file)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise pa.ArrowInvalid(f"its footer is damaged: {reason_of(error)}") from None
        self.rows = _FREE_ROWS + _ROWS_PER_BYTE * size

    def require_group(self, group: int, columns: list[str]) -> None:
        """Check a row group before its pages of some columns, as Parquet names them, are read.

        Raises:
            pa.ArrowInvalid: they claim more than the footer, or unpack to far more than the file.
        """
        tops = {*columns, *(name.partition(".")[0] for name in columns)}
        chosen = [leaf for leaf in self._leaves if leaf.path[0] in tops]
        for leaf in chosen:
            if any(chunk.group == group and chunk.unpacked > self._limit for chunk in leaf.chunks):
                raise pa.ArrowInvalid("a column expands to far more than the file")
        here = self._file.tell()
        _require_pages(self._file, chosen, group)
        self._file.seek(here)


def _text_bytes(file: BinaryIO, leaf: LeafColumn, limit: int) -> int:
    """Return the bytes that the texts of a column take without their dictionary, or a number above ``limit``."""
    if _DELTA not in leaf.encodings:
        try:
            return _summed(file, leaf, leaf.uncompressed // leaf.values, limit, as_dictionary=True)
        except pa.ArrowNotImplementedError:  # of some nested columns
            pass
    # Any one text may be as long as all pages together.
    return _summed(file, leaf, leaf.uncompressed, limit, as_dictionary=False)


def _summed(file: BinaryIO, leaf: LeafColumn, bytes_per_value: int, limit: int, *, as_dictionary: bool) -> int:
    file.seek(0)
    path, total = ".".join(leaf.path), 0
    rows = min(max(1, _PROBED_BYTES // max(1, bytes_per_value)), 1 << 20)
    opened = pq.ParquetFile(file, pre_buffer=False, read_dictionary=[path] if as_dictionary else None)
    for group in range(opened.num_row_groups):
        for batch in opened.iter_batches(rows, row_groups=[group], columns=[path], use_threads=False):
            total += _decoded_bytes(batch.column(0))
            if total > limit:
                return total
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
