"""Reads an ONNX file's own structure without the onnx package: does it point to data outside of itself?

An ONNX graph may name other files by path (``external_data``), and whatever loads it then reads them: of a file that
somebody else made, any file of this machine. The files of ``zoo export`` are self-contained, so none may.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from zoo.errors import UserError

# Field numbers of onnx.proto that lead to tensors: message -> {field: message of the field}
_CHILDREN = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of Tensor
_MAX_DEPTH = 64  # graphs within graphs


def require_self_contained(path: Path) -> None:
    """Refuses a file with a tensor that lies outside of it, and one that is no protobuf.

    Raises:
        UserError: either, or the file cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            outside = _points_outside(data, 0, len(data), "Model", 0)
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no ONNX file that can be read ({error})") from None
    if outside:
        raise UserError(
            f"{path} refers to data in other files, which a file of somebody else could use to read yours: "
            "only self-contained files are opened (`zoo export` writes them)"
        )


def _points_outside(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> bool:
    """Whether any tensor in ``data[start:end]`` is external. ValueError or IndexError if it is no such message."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    position = start
    while position < end:
        key, position = _varint(data, position)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            if message == "Tensor" and field == _DATA_LOCATION and value != 0:
                return True
        elif kind == 2:
            length, position = _varint(data, position)
            if position + length > end:
                raise ValueError("truncated")
            if message == "Tensor" and field == _EXTERNAL_DATA:
                return True
            child = _CHILDREN[message].get(field)
            if child and _points_outside(data, position, position + length, child, depth + 1):
                return True
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError("not a protobuf")
    if position != end:
        raise ValueError("truncated")
    return False


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("not a protobuf")
