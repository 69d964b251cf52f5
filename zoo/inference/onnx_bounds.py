"""Refuse ONNX files whose graphs would take far more memory than they hold, before a runtime opens them.

A file of a hundred bytes can ask for any amount: ``ConstantOfShape``, ``Expand``, ``Tile``, ``Range``, ``Pad`` and
``Resize`` make tensors of the sizes that they are told, some of them while the session starts, and ``Loop`` takes any
time. So the shapes of all tensors are followed through the graph first, for one image and for several
(``onnx_shapes``). Operators that no network of ``zoo export`` has are refused by name.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import UserError, reason_of
from zoo.inference.onnx_shapes import Shape, Value, constant, results
from zoo.inference.onnx_wire import Graph, read_graph
from zoo.system.shortage import raise_if_short

_BATCHES = (1, 64)
_SIDE = 320  # of images, where a graph takes any
_MOST_SIDE = 4096
_FREE_BYTES = 64 << 20  # that a tensor of one image may take beside twice the file
_MOST_NODES = 20_000


def require_bounded(path: Path) -> None:
    """Check that no tensor of a graph takes more than 64 MB and twice the file for each image.

    Raises:
        UserError: one does, its size depends on what is in an image, or the graph is not one of a network.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            graph = _read(mapped)
    except (OSError, ValueError) as error:
        raise_if_short(error)
        graph = reason_of(error)
    if isinstance(graph, str):
        raise UserError(f"{path} is not an ONNX file that can be read ({graph})")
    limit = _FREE_BYTES + 2 * path.stat().st_size
    try:
        for batch in _BATCHES:
            _follow(graph, batch, limit * batch)
    except (ValueError, IndexError, TypeError, KeyError, OverflowError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"{path} is refused: {reason_of(error)}: only graphs of networks are opened (`zoo export` writes them)"
        ) from None


def _read(mapped: mmap.mmap) -> Graph | str:
    """Return the graph, or what is wrong; no error, whose traceback would keep the file mapped."""
    try:
        return read_graph(memoryview(mapped))
    except (ValueError, OverflowError, TypeError) as error:
        return reason_of(error)


def _follow(graph: Graph, batch: int, limit: int) -> None:
    """Follow the shapes through the graph. ValueError: a tensor, or all that live at once, would take too much."""
    if len(graph.nodes) > _MOST_NODES:
        raise ValueError(f"it has {len(graph.nodes)} operators")
    values = {"": Value((1,))}
    for name, tensor in graph.tensors.items():
        values[name] = constant(tensor)
    for name, sides in graph.inputs.items():
        if name not in graph.tensors:
            values[name] = Value(_input_shape(sides, batch))
    # A tensor lives until its last reader.
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    living: dict[str, int] = {}
    for node in graph.nodes:
        what = f"its operator {node.op_type}"
        for name, made in zip(node.outputs, results(node, [values[name] for name in node.inputs]), strict=False):
            if any(side < 0 for side in made.shape) or (0 in made.shape and node.op_type != "Constant"):
                raise ValueError(f"{what} makes a tensor without numbers")
            if made.size > limit:
                raise ValueError(f"{what} makes a tensor of {made.size / 1e6:.0f} MB for a batch of {batch}")
            values[name] = made
            living[name] = made.size
        if sum(living.values()) > 4 * limit:
            raise ValueError(f"tensors of {sum(living.values()) / 1e6:.0f} MB live at once for a batch of {batch}")
        for name in {*node.inputs}:
            readers[name] -= node.inputs.count(name)
            if readers[name] <= 0:
                living.pop(name, None)


def _input_shape(sides: Sequence[int | None], batch: int) -> Shape:
    """Name the sides of an input of images: the first is the batch."""
    if len(sides) != 4:
        raise ValueError("its input is no batch of images")
    shape = tuple((batch if at == 0 else _SIDE) if side is None else side for at, side in enumerate(sides))
    if not all(0 < side <= _MOST_SIDE for side in shape):
        raise ValueError(f"its input has the sides {list(shape)}")
    return shape
