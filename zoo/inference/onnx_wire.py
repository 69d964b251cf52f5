"""The graph of an ONNX file, read without the onnx package and without a copy of its weights.

An ONNX file is a message of protobuf (onnx.proto of the onnx package 1.18). This reads the fields that say which
operators a graph has and how large its tensors are; ``tests/zoo/inference/test_onnx_bounds.py`` compares the numbers
of the fields with the package's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_MOST_FIELDS = 2_000_000
_MOST_VALUES = 4096  # of a tensor that is read for its numbers: shapes and paddings have a few
# Bytes of TensorProto.DataType: FLOAT 1 to BFLOAT16 16; strings, and types without a fixed width, have none.
_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 12: "<u4",
          13: "<u8"}  # fmt: skip
FIELDS = {
    "ModelProto": {"graph": 7, "functions": 25},
    "GraphProto": {"node": 1, "initializer": 5, "input": 11, "sparse_initializer": 15},
    "NodeProto": {"input": 1, "output": 2, "op_type": 4, "attribute": 5, "domain": 7},
    "AttributeProto": {"name": 1, "f": 2, "i": 3, "s": 4, "t": 5, "g": 6, "floats": 7, "ints": 8, "graphs": 11},
    "TensorProto": {"dims": 1, "data_type": 2, "float_data": 4, "int32_data": 5, "int64_data": 7, "name": 8,
                    "raw_data": 9, "double_data": 10, "uint64_data": 11},
    "ValueInfoProto": {"name": 1, "type": 2},
    "TypeProto": {"tensor_type": 1},
    "TensorShapeProto": {"dim": 1},
    "Dimension": {"dim_value": 1},
}  # fmt: skip
_Field = tuple[int, int, "int | memoryview"]


@dataclass
class Tensor:
    """Shape and type of a tensor in the file; its numbers if they are few."""

    shape: tuple[int, ...]
    data_type: int
    values: NDArray[np.generic] | None = None


@dataclass
class Node:
    """An operator; attributes are ints, lists of ints, texts and tensors, other kinds are left out."""

    op_type: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, int | list[int] | str | Tensor] = field(default_factory=dict)


@dataclass
class Graph:
    """The parts of a graph that say how much memory it takes.

    Attributes:
        inputs: sides by name; ``None`` for one that is not fixed.
    """

    nodes: list[Node]
    tensors: dict[str, Tensor]
    inputs: dict[str, list[int | None]]


class _Reader:
    def __init__(self) -> None:
        self._fields = 0

    def fields(self, data: memoryview) -> Iterator[_Field]:
        """Yield number, wire type and value of the fields of a message."""
        position, end = 0, len(data)
        while position < end:
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise ValueError("it has millions of fields")
            key, position = _varint(data, position)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, position = _varint(data, position)
                yield number, wire, value
                continue
            if wire == 2:
                length, position = _varint(data, position)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError("it has a field of an unknown kind")
            if length > end - position:
                raise ValueError("a field claims more bytes than there are")
            yield number, wire, data[position : position + length]
            position += length

    def graph(self, data: memoryview) -> Graph:
        """Read a GraphProto."""
        numbers = FIELDS["GraphProto"]
        graph = Graph([], {}, {})
        for number, _, value in self.fields(data):
            if number == numbers["node"]:
                graph.nodes.append(self._node(_bytes(value)))
            elif number == numbers["initializer"]:
                name, tensor = self._tensor(_bytes(value))
                graph.tensors[name] = tensor
            elif number == numbers["input"]:
                name, sides = self._value_info(_bytes(value))
                graph.inputs[name] = sides
            elif number == numbers["sparse_initializer"]:
                raise ValueError("it has sparse tensors")
        return graph

    def _node(self, data: memoryview) -> Node:
        numbers = FIELDS["NodeProto"]
        node = Node("", "", [], [])
        for number, _, value in self.fields(data):
            if number == numbers["input"]:
                node.inputs.append(_text(value))
            elif number == numbers["output"]:
                node.outputs.append(_text(value))
            elif number == numbers["op_type"]:
                node.op_type = _text(value)
            elif number == numbers["domain"]:
                node.domain = _text(value)
            elif number == numbers["attribute"]:
                self._attribute(node, _bytes(value))
        return node

    def _attribute(self, node: Node, data: memoryview) -> None:
        numbers = FIELDS["AttributeProto"]
        name, ints, found = "", list[int](), list[int | str | Tensor]()
        for number, wire, value in self.fields(data):
            if number == numbers["name"]:
                name = _text(value)
            elif number == numbers["i"]:
                found.append(_signed(value))
            elif number == numbers["s"]:
                found.append(_text(value))
            elif number == numbers["ints"]:
                ints += _ints(wire, value)
            elif number == numbers["t"]:
                found.append(self._tensor(_bytes(value))[1])
            elif number in (numbers["g"], numbers["graphs"]):
                raise ValueError(f"the operator {node.op_type} has graphs of its own")
        if len(found) > 1 or name in node.attributes:
            raise ValueError("an attribute is there twice")
        if ints or found:
            node.attributes[name] = ints or found[0]

    def _tensor(self, data: memoryview) -> tuple[str, Tensor]:
        numbers = FIELDS["TensorProto"]
        name, dims, kind, raw = "", list[int](), 0, None
        stored, listed, floats = 0, list[int](), list[float]()
        for number, wire, value in self.fields(data):
            if number == numbers["dims"]:
                dims += _ints(wire, value)
            elif number == numbers["data_type"]:
                kind = _signed(value)
            elif number == numbers["name"]:
                name = _text(value)
            elif number == numbers["raw_data"]:
                raw = _bytes(value)
            elif number in (numbers["float_data"], numbers["double_data"]):
                found_floats = np.frombuffer(_bytes(value), "<f4" if number == numbers["float_data"] else "<f8")
                stored += len(found_floats)
                floats += found_floats.tolist() if stored <= _MOST_VALUES else []
            elif number in (numbers["int32_data"], numbers["int64_data"], numbers["uint64_data"]):
                if wire == 2 and len(_bytes(value)) > 10 * _MOST_VALUES:
                    stored += int(np.count_nonzero(np.frombuffer(_bytes(value), np.uint8) < 0x80))
                else:
                    found = _ints(wire, value)
                    stored += len(found)
                    listed += found if len(listed) <= _MOST_VALUES else []
        count = _product(dims)
        if min(dims, default=0) < 0 or len(dims) > 16 or kind not in _WIDTHS:
            raise ValueError(f"its tensor {name} has no shape or type of numbers")
        there = stored if raw is None else len(raw) // _WIDTHS[kind]
        if there != count:
            raise ValueError(f"its tensor {name} claims {count} values and has {there}")
        values: NDArray[np.generic] | None = None
        if count <= _MOST_VALUES and kind in DTYPES:
            if raw is not None:
                values = np.frombuffer(raw, DTYPES[kind]).reshape(dims).copy()
            elif len(listed) == count and kind in (6, 7):
                values = np.array(listed, np.int64).reshape(dims)
            elif len(floats) == count and kind in (1, 11):
                values = np.array(floats, DTYPES[kind]).reshape(dims)
        return name, Tensor(tuple(dims), kind, values)

    def _value_info(self, data: memoryview) -> tuple[str, list[int | None]]:
        name, sides = "", list[int | None]()
        for number, _, value in self.fields(data):
            if number == FIELDS["ValueInfoProto"]["name"]:
                name = _text(value)
            elif number == FIELDS["ValueInfoProto"]["type"]:
                for of_type, _, tensor in self.fields(_bytes(value)):
                    if of_type == FIELDS["TypeProto"]["tensor_type"]:
                        sides = self._sides(_bytes(tensor))
        return name, sides

    def _sides(self, data: memoryview) -> list[int | None]:
        sides, dim_value = list[int | None](), FIELDS["Dimension"]["dim_value"]
        for number, _, shape in self.fields(data):
            if number == 2:  # TypeProto.Tensor.shape
                for _, _, dim in self.fields(_bytes(shape)):
                    fixed = [_signed(v) for n, _, v in self.fields(_bytes(dim)) if n == dim_value]
                    sides.append(fixed[-1] if fixed else None)
        return sides


def read_graph(data: memoryview) -> Graph:
    """Return the graph of the bytes of a file.

    Raises:
        ValueError: they are no ONNX model, or claim more than they have; one line that says what.
    """
    reader = _Reader()
    graphs = []
    for number, _, value in reader.fields(data):
        if number == FIELDS["ModelProto"]["graph"]:
            graphs.append(_bytes(value))
        elif number == FIELDS["ModelProto"]["functions"]:
            raise ValueError("it has functions")
    if len(graphs) != 1:
        raise ValueError("it has no graph, or several")
    return reader.graph(graphs[0])


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is cut off")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a field has another type")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()


def _signed(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a field has another type")
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _ints(wire: int, value: int | memoryview) -> list[int]:
    """Return repeated ints: one, or packed ones."""
    if wire == 0:
        return [_signed(value)]
    data, position, found = _bytes(value), 0, list[int]()
    while position < len(data):
        number, position = _varint(data, position)
        found.append(_signed(number))
    return found


def _product(dims: list[int]) -> int:
    product = 1
    for side in dims:
        product *= side
    return product
