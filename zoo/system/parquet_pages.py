"""Compare the headers of a Parquet file's pages with its footer, before Arrow takes the memory that they claim.

Arrow allocates what the header of a page says: the page unpacked, a dictionary of so many entries. The footer, of
which ``zoo.system.parquet`` checks the sizes, may say less. A header is a struct of Thrift's compact protocol before
each page (parquet-format, ``parquet.thrift``).
"""

from __future__ import annotations

from typing import Any, BinaryIO

from zoo.system.parquet_footer import Chunk, read_struct

_USUAL_HEADER = 1 << 10  # bytes; with the smallest and largest value of a column of images it takes megabytes
# numbers of fields in parquet.thrift
_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_2, _VALUES = 2, 3, 5, 7, 8, 1


def require_pages(file: BinaryIO, chunk: Chunk, width: int) -> None:
    """Check the headers of the pages of a column in one row group.

    Args:
        width: bytes that an entry of a dictionary takes at least.

    Raises:
        ValueError: they claim more bytes or values than the footer, or lie outside of the column.
    """
    position, end = chunk.start, chunk.start + chunk.packed
    bytes_left, values_left = chunk.unpacked, chunk.values
    while position < end and values_left > 0:
        header, length = _header(file, position, end)
        unpacked, packed = (_count(header.get(number)) for number in (_UNPACKED, _PACKED))
        position += length + packed
        bytes_left -= unpacked
        if _DICTIONARY in header:
            entries = _count(header[_DICTIONARY].get(_VALUES))
            if entries * width > unpacked:
                raise ValueError("a dictionary claims more entries than its page holds")
        elif _DATA in header or _DATA_2 in header:
            values_left -= _count(header[_DATA if _DATA in header else _DATA_2].get(_VALUES))
        if position > end or bytes_left < 0 or values_left < 0:
            raise ValueError("a page claims more than the footer says")


def _header(file: BinaryIO, position: int, end: int) -> tuple[dict[int, Any], int]:
    """Return a header's fields by number, and its length."""
    size = _USUAL_HEADER
    while True:
        file.seek(position)
        data = file.read(min(size, end - position))
        try:
            return read_struct(data)
        except (ValueError, IndexError):  # it may go on behind what was read
            if len(data) < size:
                raise ValueError("the header of a page is damaged or cut off") from None
        size *= 16


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("a page has a size that is no number")
    return value
