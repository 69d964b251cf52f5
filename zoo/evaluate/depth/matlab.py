"""Read small numeric matrices from a MATLAB file of version 5, such as NYU v2's list of splits.

SciPy's reader is not used: a damaged file of 200 bytes crashes its process (SciPy 1.17). The format is MathWorks'
"MAT-File Format", level 5: elements of a tag (type, bytes) and data, where a matrix holds elements of its own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEADER = 128
_MAX_BYTES, _MAX_EXPANDED = 1 << 20, 8 << 20  # NYU v2's file has 3 kB
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_NUMERIC_CLASSES = range(6, 16)  # of arrays: double, single and the integers


def read_matrices(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the real numeric matrices of a file by name, flat in MATLAB's order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, larger than 1 MB, or damaged.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("it is larger than 1 MB")
    data = path.read_bytes()
    if data[126:128] != b"IM":
        raise ValueError("no MATLAB file of version 5")
    found: dict[str, NDArray[np.generic]] = {}
    left = _MAX_EXPANDED
    for kind, content in _elements(data[_HEADER:]):
        if kind == _COMPRESSED:
            try:
                unpacked = zlib.decompressobj().decompress(content, left + 1)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            left -= len(unpacked)
            if left < 0:
                raise ValueError("its matrices take more than 8 MB")
            matrices = [inner for inner_kind, inner in _elements(unpacked) if inner_kind == _MATRIX]
        else:
            matrices = [content] if kind == _MATRIX else []
        for matrix in matrices:
            found |= _matrix(matrix)
    return found


def _matrix(content: bytes) -> dict[str, NDArray[np.generic]]:
    """Return the matrix under its name; nothing for cells, structs, texts and sparse ones."""
    parts = list(_elements(content))
    if [kind for kind, _ in parts[:3]] != [_UINT32, _INT32, _INT8] or len(parts) < 4 or not parts[0][1]:
        return {}
    flags, shape, name = parts[0][1], np.frombuffer(parts[1][1], "<i4"), parts[2][1]
    kind, numbers = parts[3]
    if flags[0] not in _NUMERIC_CLASSES or kind not in _NUMBERS:
        return {}
    values: NDArray[np.generic] = np.frombuffer(numbers, _NUMBERS[kind])
    if math.prod(int(n) for n in shape) != len(values):
        raise ValueError("a matrix without all its numbers")
    if not np.isfinite(values).all():
        raise ValueError("a matrix with NaN or infinity")
    return {name.decode("ascii", "replace"): values}


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 8 <= len(data):
        kind = int.from_bytes(data[position : position + 4], "little")
        if size := kind >> 16:  # a small element: tag and data in eight bytes
            kind, start, after = kind & 0xFFFF, position + 4, position + 8
            if size > 4:
                raise ValueError("an element outside of its matrix")
        else:
            size = int.from_bytes(data[position + 4 : position + 8], "little")
            start = position + 8
            after = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError("an element outside of the file")
        yield kind, data[start : start + size]
        position = after
