"""The graph of an ONNX file, read without the onnx package and without a copy of its weights.

The package is no help here. Only ``zoo export`` needs it: ONNX Runtime runs a file without it. And it takes some 80
bytes of memory for each byte of a file that is made for that (measured: 20 MB of empty operators, onnx 1.23, 1.5 GB),
before anything can be compared with anything.

An ONNX file is a message of protobuf (onnx.proto of the onnx package 1.18): fields, each with a number, a wire type and
a value, which may be a message again (protobuf.dev/programming-guides/encoding). ``_Reader.fields`` reads one message,
and the methods below it build a ``Graph`` from the fields that say which operators there are and how large its tensors
are. ``tests/zoo/inference/test_onnx_bounds.py`` compares the numbers of the fields with the package's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from zoo.system.varint import read_varint

_MOST_FIELDS = 2_000_000
_MOST_LISTED = 1 << 16  # numbers of an attribute, or sides of a tensor
_MOST_VALUES = 4096  # of a tensor that is read for its numbers: shapes and paddings have a few
# Bytes of TensorProto.DataType: FLOAT 1 to BFLOAT16 16; strings, and types without a fixed width, have none.
_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 12: "<u4",
          13: "<u8"}  # fmt: skip
FIELDS = {
    "ModelProto": {"graph": 7, "functions": 25},
    "GraphProto": {"node": 1, "initializer": 5, "input": 11, "sparse_initializer": 15},
    "NodeProto": {"input": 1, "output": 2, "op_type": 4, "attribute": 5, "domain": 7},
    "AttributeProto": {"name": 1, "i": 3, "s": 4, "t": 5, "g": 6, "ints": 8, "graphs": 11},
    "TensorProto": {"dims": 1, "data_type": 2, "float_data": 4, "int32_data": 5, "int64_data": 7, "name": 8,
                    "raw_data": 9, "double_data": 10, "uint64_data": 11},
    "ValueInfoProto": {"name": 1, "type": 2},
    "TypeProto": {"tensor_type": 1},
    "TypeProto.Tensor": {"shape": 2},
    "TensorShapeProto": {"dim": 1},
    "TensorShapeProto.Dimension": {"dim_value": 1},
}  # fmt: skip
"""Number of each field that is read, by its message and its name; all others are skipped."""
_NAMES = {message: {number: name for name, number in fields.items()} for message, fields in FIELDS.items()}

_varint = partial(read_varint, where="its graph")
_Raw = int | memoryview  # of a field: a number, or the bytes of a text, a message, packed numbers or a fixed number


@dataclass
class Tensor:
    """Shape and type of a tensor in the file; its numbers if they are few."""

    shape: tuple[int, ...]
    data_type: int
    values: NDArray[np.generic] | None = None


Attribute = int | list[int] | str | Tensor


@dataclass
class Node:
    """An operator; attributes of other kinds are left out."""

    op_type: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute] = field(default_factory=dict)


@dataclass
class Graph:
    """The parts of a graph that say how much memory it takes.

    Attributes:
        inputs: sides by name; ``None`` for one that is not fixed.
    """

    nodes: list[Node]
    tensors: dict[str, Tensor]
    inputs: dict[str, list[int | None]]


def read_graph(data: memoryview) -> Graph:
    """Return the graph of the bytes of a file.

    Raises:
        ValueError: they are no ONNX model, or claim more than they have; one line that says what.
    """
    try:
        return _Reader().model(data)
    except IndexError:
        raise ValueError("it is cut off") from None


# ---------------------------------------------------------------- messages


class _Reader:
    """Reads the messages of one file, and counts their fields."""

    def __init__(self) -> None:
        self._fields = 0

    def model(self, data: memoryview) -> Graph:
        graphs = []
        for name, value in self.fields("ModelProto", data):
            if name == "functions":
                raise ValueError("it has functions")
            graphs.append(value)
        if len(graphs) != 1:
            raise ValueError("it has no graph, or several")
        return self._graph(graphs[0])

    def fields(self, message: str, data: _Raw) -> Iterator[tuple[str, _Raw]]:
        """Yield name and value of the fields of a message that ``FIELDS`` names, in the order of the file."""
        for number, value in self._each(_bytes(data)):
            if (name := _NAMES[message].get(number)) is not None:
                yield name, value

    def _each(self, data: memoryview) -> Iterator[tuple[int, _Raw]]:
        """Yield number and value of all fields of a message."""
        position, end = 0, len(data)
        while position < end:
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise ValueError("it has millions of fields")
            key, position = _varint(data, position)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, position = _varint(data, position)
                yield number, value
                continue
            if wire == 2:
                length, position = _varint(data, position)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError("it has a field of an unknown kind")
            if length > end - position:
                raise ValueError("a field claims more bytes than there are")
            yield number, data[position : position + length]
            position += length

    def _graph(self, data: _Raw) -> Graph:
        graph = Graph([], {}, {})
        for field_name, value in self.fields("GraphProto", data):
            match field_name:
                case "node":
                    graph.nodes.append(self._node(value))
                case "initializer":
                    name, tensor = self._tensor(value)
                    graph.tensors[name] = tensor
                case "input":
                    name, sides = self._input(value)
                    graph.inputs[name] = sides
                case "sparse_initializer":
                    raise ValueError("it has sparse tensors")
        return graph

    def _node(self, data: _Raw) -> Node:
        node = Node("", "", [], [])
        for field_name, value in self.fields("NodeProto", data):
            match field_name:
                case "input":
                    node.inputs.append(_text(value))
                case "output":
                    node.outputs.append(_text(value))
                case "op_type":
                    node.op_type = _text(value)
                case "domain":
                    node.domain = _text(value)
                case "attribute":
                    self._attribute(node, value)
        return node

    def _attribute(self, node: Node, data: _Raw) -> None:
        name, ints, found = "", list[int](), list[Attribute]()
        for field_name, value in self.fields("AttributeProto", data):
            match field_name:
                case "name":
                    name = _text(value)
                case "i":
                    found.append(_signed(value))
                case "s":
                    found.append(_text(value))
                case "ints":
                    ints += _ints(value, _MOST_LISTED - len(ints))
                case "t":
                    found.append(self._tensor(value)[1])
                case "g" | "graphs":
                    raise ValueError(f"the operator {node.op_type} has graphs of its own")
        if len(found) > 1 or name in node.attributes:
            raise ValueError("an attribute is there twice")
        if ints or found:
            node.attributes[name] = ints or found[0]

    def _tensor(self, data: _Raw) -> tuple[str, Tensor]:
        name, dims, kind, raw = "", list[int](), 0, None
        ints, floats = _Numbers(), _Numbers()
        for field_name, value in self.fields("TensorProto", data):
            match field_name:
                case "name":
                    name = _text(value)
                case "dims":
                    dims += _ints(value, _MOST_LISTED - len(dims))
                case "data_type":
                    kind = _signed(value)
                case "raw_data":
                    raw = _bytes(value)
                case "float_data":
                    floats.add(np.frombuffer(_bytes(value), "<f4"))
                case "double_data":
                    floats.add(np.frombuffer(_bytes(value), "<f8"))
                case "int32_data" | "int64_data" | "uint64_data":
                    ints.add_packed(value)
        if min(dims, default=0) < 0 or len(dims) > 16 or kind not in _WIDTHS:
            raise ValueError(f"its tensor {name} has no shape or type of numbers")
        count = prod(dims)  # not before: a product of many sides takes long
        there = ints.count + floats.count if raw is None else len(raw) // _WIDTHS[kind]
        if there != count:
            raise ValueError(f"its tensor {name} claims {count} values and has {there}")
        # Keep the numbers of a small one.
        values: NDArray[np.generic] | None = None
        if count <= _MOST_VALUES and kind in DTYPES:
            if raw is not None:
                values = np.frombuffer(raw, DTYPES[kind]).reshape(dims).copy()
            elif ints.count == count and kind in (6, 7):
                values = np.array(ints.first, np.int64).reshape(dims)
            elif floats.count == count and kind in (1, 11):
                values = np.array(floats.first, DTYPES[kind]).reshape(dims)
        return name, Tensor(tuple(dims), kind, values)

    def _input(self, data: _Raw) -> tuple[str, list[int | None]]:
        name, sides = "", list[int | None]()
        for field_name, value in self.fields("ValueInfoProto", data):
            if field_name == "name":
                name = _text(value)
                continue
            for _, tensor in self.fields("TypeProto", value):
                for _, shape in self.fields("TypeProto.Tensor", tensor):
                    for _, dim in self.fields("TensorShapeProto", shape):
                        fixed = [_signed(side) for _, side in self.fields("TensorShapeProto.Dimension", dim)]
                        sides.append(fixed[-1] if fixed else None)
        return name, sides


class _Numbers:
    """Counts the numbers of a tensor, and keeps the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[int | float] = []

    def add(self, numbers: NDArray[np.generic]) -> None:
        self.count += len(numbers)
        if self.count <= _MOST_VALUES:
            self.first += numbers.tolist()

    def add_packed(self, value: _Raw) -> None:
        self.count += _count_ints(value)
        if self.count <= _MOST_VALUES:
            self.first += _ints(value, _MOST_VALUES)


# ---------------------------------------------------------------- values of fields


def _bytes(value: _Raw) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a field has another type")
    return value


def _text(value: _Raw) -> str:
    return bytes(_bytes(value)).decode()


def _signed(value: _Raw) -> int:
    """Return an int64 from its two's complement."""
    if not isinstance(value, int):
        raise ValueError("a field has another type")
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _ints(value: _Raw, most: int) -> list[int]:
    """Return the numbers of a repeated field from one value: one number, or packed ones."""
    if _count_ints(value) > most:
        raise ValueError("it lists more numbers than an operator takes")
    if isinstance(value, int):
        return [_signed(value)]
    position, found = 0, list[int]()
    while position < len(value):
        number, position = _varint(value, position)
        found.append(_signed(number))
    return found


def _count_ints(value: _Raw) -> int:
    """Return how many numbers ``_ints`` finds in a value: only the last byte of a packed one is below 128."""
    return 1 if isinstance(value, int) else int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))
