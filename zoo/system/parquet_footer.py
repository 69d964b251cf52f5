"""The sizes that a Parquet file's footer states, read without Arrow.

Arrow checks the footer of a column when it reads it, and raises; but pyarrow 26 asks for the same column's metadata
through a function that must not raise, and a damaged footer ends the process there. The footer is a struct of Thrift's
compact protocol, of which this reads the few fields that say sizes (parquet-format, ``parquet.thrift``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

from zoo.system.varint import read_varint

_MAX_DEPTH = 16
_MAX_FOOTER = 256 << 20
# types of Thrift's compact protocol
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
# numbers of fields in parquet.thrift
_ROW_GROUPS, _SCHEMA, _COLUMNS, _META = 4, 2, 1, 3
_PHYSICAL_TYPE, _ENCODINGS, _PATH, _VALUES, _UNCOMPRESSED = 1, 2, 3, 5, 6
_COMPRESSED, _FIRST_DATA_PAGE, _FIRST_DICTIONARY_PAGE = 7, 9, 11
_TYPE_LENGTH, _NAME, _CHILDREN = 2, 4, 5
_FIXED = 7  # FIXED_LEN_BYTE_ARRAY
_varint = partial(read_varint, where="its footer")


@dataclass(frozen=True)
class Chunk:
    """A column in one row group: its place in the file, bytes before and after unpacking, and number of values."""

    group: int
    start: int
    packed: int
    unpacked: int
    values: int


@dataclass
class LeafColumn:
    """What the row groups state of one column without fields.

    Attributes:
        path: names from the top level down.
        physical_type: number of ``parquet.thrift``'s ``Type``.
        length: bytes of a value of fixed length.
        values: number of values, with missing ones.
        uncompressed: bytes of its pages.
        encodings: numbers of ``parquet.thrift``'s ``Encoding``.
        chunks: the column in each row group.
    """

    path: tuple[str, ...]
    physical_type: int
    length: int
    values: int = 0
    uncompressed: int = 0
    encodings: frozenset[int] = frozenset()
    chunks: list[Chunk] = field(default_factory=list)


def leaf_columns(file: BinaryIO) -> list[LeafColumn]:
    """Return the leaf columns of a Parquet file, summed over its row groups.

    Raises:
        ValueError, IndexError, KeyError, TypeError: the file has no such footer.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length > min(size - 8, _MAX_FOOTER):
        raise ValueError("no footer of Parquet")
    file.seek(size - 8 - length)
    footer, _ = _struct(file.read(length), 0, 0)
    columns: dict[tuple[str, ...], LeafColumn] = {}
    lengths = {
        element[_NAME]: element.get(_TYPE_LENGTH, 0) for element in footer[_SCHEMA] if not element.get(_CHILDREN)
    }
    for number, group in enumerate(footer[_ROW_GROUPS]):
        for chunk in group[_COLUMNS]:
            meta = chunk[_META]
            path, kind = tuple(name.decode() for name in meta[_PATH]), meta[_PHYSICAL_TYPE]
            fixed = max(1, lengths[meta[_PATH][-1]]) if kind == _FIXED else 0
            column = columns.setdefault(path, LeafColumn(path, kind, fixed))
            if min(meta[_VALUES], meta[_UNCOMPRESSED]) < 0:
                raise ValueError("a column of a negative size")
            column.values += meta[_VALUES]
            column.uncompressed += meta[_UNCOMPRESSED]
            column.encodings |= frozenset(meta[_ENCODINGS])
            # As Arrow does: some writers state a dictionary page at 0 where there is none.
            start, dictionary = meta[_FIRST_DATA_PAGE], meta.get(_FIRST_DICTIONARY_PAGE, 0)
            start = min(start, dictionary) if dictionary > 0 else start
            packed = meta[_COMPRESSED]
            if start < 0 or packed < 0 or start + packed > size:
                raise ValueError("a column lies outside of the file")
            column.chunks.append(Chunk(number, start, packed, meta[_UNCOMPRESSED], meta[_VALUES]))
    return list(columns.values())


def read_struct(data: bytes) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct of Thrift's compact protocol by number, and its length in bytes.

    Raises:
        ValueError, IndexError: there is none; IndexError if the bytes end too early.
    """
    return _struct(data, 0, 0)


def _struct(data: bytes, position: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return a struct's fields by number, and the position after it."""
    if depth > _MAX_DEPTH:
        raise ValueError("its footer is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[position]) != 0:
        position += 1
        if head >> 4:
            number += head >> 4
        else:
            number, position = _integer(data, position)
        kind = head & 15
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], position = _value(data, position, kind, depth)
    return fields, position + 1


def _value(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _integer(data, position)
    if kind in (_TRUE, _FALSE, _BYTE):  # in a list, a boolean takes a byte
        return data[position], position + 1
    if kind == _DOUBLE:
        return None, position + 8
    if kind == _BINARY:
        length, position = _varint(data, position)
        if length > len(data) - position:
            raise ValueError("a text of its footer lies outside of it")
        return data[position : position + length], position + length
    if kind == _STRUCT:
        return _struct(data, position, depth + 1)
    if kind in (_LIST, _SET):
        head = data[position]
        position += 1
        count = head >> 4
        if count == 15:
            count, position = _varint(data, position)
        return _values(data, position, [head & 15], count, depth)
    if kind == _MAP:
        count, position = _varint(data, position)
        if not count:
            return [], position
        return _values(data, position + 1, [data[position] >> 4, data[position] & 15], count, depth)
    raise ValueError("its footer has a field of an unknown type")


def _values(data: bytes, position: int, kinds: list[int], count: int, depth: int) -> tuple[list[Any], int]:
    if depth > _MAX_DEPTH or count > len(data) - position:  # a value takes a byte or more
        raise ValueError("a list of its footer is longer than the footer")
    values = []
    for _ in range(count):
        for kind in kinds:
            value, position = _value(data, position, kind, depth + 1)
            values.append(value)
    return values, position


def _integer(data: bytes, position: int) -> tuple[int, int]:
    value, position = _varint(data, position)
    return (value >> 1) ^ -(value & 1), position
