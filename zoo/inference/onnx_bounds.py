"""Refuse ONNX files whose graphs would take far more memory than they hold, before a runtime opens them.

A file of a hundred bytes can ask for any amount: ``ConstantOfShape``, ``Expand``, ``Tile``, ``Range``, ``Pad`` and
``Resize`` make tensors of the sizes that they are told, some of them while the session starts, and ``Loop`` takes any
time. So the shapes of all tensors are followed through the graph first, for one image and for several, as the
operators of networks define them (ONNX operators, opset 18 to 23). Operators that no network of ``zoo export`` has are
refused by name.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError, reason_of
from zoo.inference.onnx_wire import DTYPES, Graph, Node, Tensor, read_graph
from zoo.system.shortage import raise_if_short

_BATCHES = (1, 64)
_SIDE = 320  # of images, where a graph takes any
_MOST_SIDE = 4096
_FREE_BYTES = 64 << 20  # that a tensor of one image may take beside twice the file
_MOST_NODES = 20_000
_MOST_KNOWN = 256  # numbers of a tensor that are followed, too: shapes are computed from shapes

_SAME = frozenset((
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Identity", "Cast", "Abs", "Neg", "Sqrt", "Exp", "Log", "Floor", "Ceil",
    "Round", "Clip", "HardSigmoid", "HardSwish", "Elu", "Selu", "Softmax", "LogSoftmax", "Softplus", "Erf",
    "Reciprocal", "Sign", "BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization",
    "LpNormalization", "Dropout", "QuantizeLinear", "DequantizeLinear", "Gelu", "Mish", "Not", "PRelu", "IsNaN",
    "Sin", "Cos",
))  # fmt: skip
_BROADCAST = frozenset((
    "Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Sum", "Mean", "Equal", "Greater", "Less", "Where",
    "And", "Or", "Xor",
    "LessOrEqual", "GreaterOrEqual",
))  # fmt: skip
_REDUCTIONS = frozenset((
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd",
))  # fmt: skip
_WIDE = (7, 11, 13)  # INT64, DOUBLE, UINT64 of TensorProto.DataType
_Shape = tuple[int, ...]


@dataclass
class _Value:
    """What is known of a tensor: its shape, the bytes of a number, and the numbers if they are few and constant."""

    shape: _Shape
    width: int = 4
    known: NDArray[np.generic] | None = None

    @property
    def size(self) -> int:
        return _size(self.shape) * self.width


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
    values = {"": _Value((1,))}
    for name, tensor in graph.tensors.items():
        values[name] = _constant(tensor)
    for name, sides in graph.inputs.items():
        if name not in graph.tensors:
            values[name] = _Value(_input_shape(sides, batch))
    # A tensor lives until its last reader.
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    living: dict[str, int] = {}
    for node in graph.nodes:
        what = f"its operator {node.op_type}"
        for name, made in zip(node.outputs, _results(node, [values[name] for name in node.inputs]), strict=False):
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


def _input_shape(sides: Sequence[int | None], batch: int) -> _Shape:
    """Name the sides of an input of images: the first is the batch."""
    if len(sides) != 4:
        raise ValueError("its input is no batch of images")
    shape = tuple((batch if at == 0 else _SIDE) if side is None else side for at, side in enumerate(sides))
    if not all(0 < side <= _MOST_SIDE for side in shape):
        raise ValueError(f"its input has the sides {list(shape)}")
    return shape


def _constant(tensor: Tensor) -> _Value:
    known = tensor.values if tensor.values is not None and tensor.values.size <= _MOST_KNOWN else None
    return _Value(tensor.shape, 8 if tensor.data_type in _WIDE else 4, known)


def _results(node: Node, given: list[_Value]) -> list[_Value]:
    """What an operator makes, for each output."""
    if node.op_type != "Split" or node.domain not in ("", "ai.onnx"):
        return [_result(node, given)] * len(node.outputs)
    shape, axis, count = given[0].shape, _int(node.attributes.get("axis", 0)) % len(given[0].shape), len(node.outputs)
    each = -(-shape[axis] // count)
    sides = _numbers(given[1]) if len(given) > 1 else [each] * (count - 1) + [shape[axis] - each * (count - 1)]
    if sum(sides) != shape[axis] or len(sides) != count:
        raise ValueError("a Split changes how many numbers there are")
    return [_Value((*shape[:axis], side, *shape[axis + 1 :]), given[0].width) for side in sides]


def _result(node: Node, given: list[_Value]) -> _Value:
    kind, options = node.op_type, node.attributes
    if node.domain not in ("", "ai.onnx"):
        raise ValueError(f"it has the operator {node.domain}.{kind}")
    width = max((value.width for value in given), default=4)
    if kind == "Constant":
        return _of_attribute(options)
    first = given[0]
    if kind in _SAME:
        # Values per channel or number are broadcast to the first input, and never make it larger.
        if kind == "Cast":
            width = 8 if options.get("to") in _WIDE else 4
        return _Value(first.shape, width, _computed(kind, given, options))
    if kind in _BROADCAST:
        return _Value(_broadcast([v.shape for v in given]), width, _computed(kind, given, options))
    if kind in _REDUCTIONS:
        return _reduced(kind, given, options, width)
    if kind in ("Conv", "ConvInteger"):
        return _Value((first.shape[0], given[1].shape[0], *_windows(first.shape, given[1].shape[2:], options)), width)
    if kind == "QLinearConv":
        weights = given[3].shape
        return _Value((first.shape[0], weights[0], *_windows(first.shape, weights[2:], options)), width)
    if kind in ("MaxPool", "AveragePool", "LpPool"):
        return _Value((*first.shape[:2], *_windows(first.shape, _ints(options["kernel_shape"]), options)), width)
    if kind in ("GlobalAveragePool", "GlobalMaxPool"):
        return _Value((*first.shape[:2], *[1] * (len(first.shape) - 2)), width)
    if kind == "Gemm":
        rows = first.shape[1 if options.get("transA") else 0]
        return _Value((rows, given[1].shape[0 if options.get("transB") else 1]), width)
    if kind == "MatMul":
        return _matrix_product(first.shape, given[1].shape, width)
    if kind == "Shape":
        start, end = (options.get(name) for name in ("start", "end"))
        sides = first.shape[start if isinstance(start, int) else None : end if isinstance(end, int) else None]
        return _Value((len(sides),), 8, np.array(sides, np.int64))
    return _reshaped(kind, given, options, width if kind == "Concat" else first.width)


def _reshaped(kind: str, given: list[_Value], options: dict[str, int | list[int] | str | Tensor], width: int) -> _Value:
    """The operators that move or repeat numbers."""
    first, shape = given[0], given[0].shape
    known = first.known
    if kind == "Flatten":
        axis = _int(options.get("axis", 1))
        return _Value((_size(shape[:axis]), _size(shape[axis:])), width)
    if kind == "Transpose":
        order = _ints(options.get("perm", [*range(len(shape))][::-1]))
        return _Value(tuple(shape[at] for at in order), width)
    if kind == "Reshape":
        sides = [shape[at] if side == 0 else side for at, side in enumerate(_numbers(given[1]))]
        if -1 in sides:
            sides[sides.index(-1)] = _size(shape) // max(1, abs(_size(tuple(sides))))
        if _size(tuple(sides)) != _size(shape):
            raise ValueError("a Reshape changes how many numbers there are")
        return _Value(tuple(sides), width, None if known is None else known.reshape(sides))
    if kind in ("Squeeze", "Unsqueeze"):
        axes = _axes(given, options, len(shape) + (kind == "Unsqueeze"))
        if kind == "Squeeze":
            axes = axes or [at for at, side in enumerate(shape) if side == 1]
            made = tuple(side for at, side in enumerate(shape) if at not in axes)
        else:
            rest = iter(shape)
            made = tuple(1 if at in axes else next(rest) for at in range(len(shape) + len(axes)))
        if _size(made) != _size(shape):
            raise ValueError("a Squeeze changes how many numbers there are")
        return _Value(made, width, None if known is None else known.reshape(made))
    if kind == "Concat":
        axis = _int(options["axis"]) % len(shape)
        total = sum(value.shape[axis] for value in given)
        parts = [value.known for value in given if value.known is not None]
        joined = np.concatenate(parts, axis) if len(parts) == len(given) and total <= _MOST_KNOWN else None
        return _Value((*shape[:axis], total, *shape[axis + 1 :]), width, joined)
    if kind == "Gather":
        axis = _int(options.get("axis", 0)) % len(shape)
        at = given[1].known
        taken = known.take(at.astype(np.int64), axis) if known is not None and at is not None else None
        return _Value((*shape[:axis], *given[1].shape, *shape[axis + 1 :]), width, taken)
    if kind == "Slice":
        return _sliced(given, width)
    if kind == "Pad":
        pads, axes = _numbers(given[1]), _numbers(given[3]) if len(given) > 3 else list(range(len(shape)))
        sides = list(shape)
        for number, axis in enumerate(axes):
            sides[axis] += pads[number] + pads[number + len(axes)]
        return _Value(tuple(sides), width)
    if kind == "Resize":
        return _Value(_resized(given, options), width)
    if kind == "Expand":
        return _Value(_broadcast([shape, tuple(_numbers(given[1]))]), width)
    if kind == "Tile":
        return _Value(tuple(side * times for side, times in zip(shape, _numbers(given[1]), strict=True)), width)
    if kind == "ConstantOfShape":
        value = options.get("value")
        return _Value(tuple(_numbers(first)), 8 if isinstance(value, Tensor) and value.data_type in _WIDE else 4)
    raise ValueError(f"it has the operator {kind}, which no network of `zoo export` has")


def _of_attribute(options: dict[str, int | list[int] | str | Tensor]) -> _Value:
    if len(options) != 1:
        raise ValueError("a constant has no value, or several")
    (value,) = options.values()
    if isinstance(value, Tensor):
        return _constant(value)
    if isinstance(value, int | list):
        return _Value(np.shape(value), 8, np.array(value, np.int64) if np.size(value) <= _MOST_KNOWN else None)
    raise ValueError("a constant is no number")


def _reduced(kind: str, given: list[_Value], options: dict[str, int | list[int] | str | Tensor], width: int) -> _Value:
    shape = given[0].shape
    axes = _axes(given, options, len(shape)) or list(range(len(shape)))
    keep = _int(options.get("keepdims", 1))
    sides = (1 if at in axes else side for at, side in enumerate(shape) if keep or at not in axes)
    known = given[0].known
    if known is not None and kind in ("ReduceMin", "ReduceMax", "ReduceProd", "ReduceSum"):
        reduces: dict[str, Callable[..., Any]]
        reduces = {"ReduceMin": np.min, "ReduceMax": np.max, "ReduceProd": np.prod, "ReduceSum": np.sum}
        known = np.asarray(reduces[kind](known, axis=tuple(axes), keepdims=bool(keep)))
    else:
        known = None
    return _Value(tuple(sides), width, known)


def _windows(shape: _Shape, kernel: Sequence[int], options: dict[str, int | list[int] | str | Tensor]) -> list[int]:
    """Sides of the output of a convolution or pooling."""
    count = len(kernel)
    strides, dilations = (_ints(options.get(name, [1] * count)) for name in ("strides", "dilations"))
    pads = _ints(options.get("pads", [0] * (2 * count)))
    same = str(options.get("auto_pad", "NOTSET")).startswith("SAME")
    sides = []
    for at in range(count):
        side, stride = shape[2 + at], strides[at]
        if stride < 1 or dilations[at] < 1 or min(pads) < 0 or kernel[at] < 1:
            raise ValueError("a window has no size")
        spare = side + pads[at] + pads[at + count] - dilations[at] * (kernel[at] - 1) - 1
        up = stride - 1 if options.get("ceil_mode") else 0
        sides.append(-(-side // stride) if same else (spare + up) // stride + 1)
        # What is only padding costs memory, too, in the columns that a matrix product reads.
        if side + pads[at] + pads[at + count] > 4 * (side + dilations[at] * kernel[at]):
            raise ValueError("a window is padded by more than there is")
    return sides


def _matrix_product(left: _Shape, right: _Shape, width: int) -> _Value:
    if len(left) == 1 or len(right) == 1:
        raise ValueError("a MatMul has vectors")
    return _Value((*_broadcast([left[:-2], right[:-2]]), left[-2], right[-1]), width)


def _sliced(given: list[_Value], width: int) -> _Value:
    shape, known = given[0].shape, given[0].known
    starts, ends = _numbers(given[1]), _numbers(given[2])
    axes = _numbers(given[3]) if len(given) > 3 and given[3].known is not None else list(range(len(starts)))
    steps = _numbers(given[4]) if len(given) > 4 else [1] * len(starts)
    cut = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, end if step > 0 or end >= -shape[axis] else None, step)
    sides = tuple(len(range(*part.indices(side))) for part, side in zip(cut, shape, strict=True))
    return _Value(sides, width, None if known is None else known[tuple(cut)])


def _resized(given: list[_Value], options: dict[str, int | list[int] | str | Tensor]) -> _Shape:
    shape = given[0].shape
    axes = _ints(options.get("axes", list(range(len(shape)))))
    sides = list(shape)
    sizes = given[3] if len(given) > 3 else None
    if sizes is not None:
        for axis, side in zip(axes, _numbers(sizes), strict=True):
            sides[axis] = side
        return tuple(sides)
    if given[2].known is None or len(given[2].shape) != 1:
        raise ValueError("a size depends on what is in the image")
    for axis, scale in zip(axes, given[2].known.tolist(), strict=True):
        sides[axis] = int(sides[axis] * scale)
    return tuple(sides)


def _axes(given: list[_Value], options: dict[str, int | list[int] | str | Tensor], dimensions: int) -> list[int]:
    """Axes of a reduction, as an attribute or as an input; none is all."""
    axes = _ints(options["axes"]) if "axes" in options else _numbers(given[1]) if len(given) > 1 else []
    return [axis % dimensions for axis in axes]


def _computed(
    kind: str, given: list[_Value], options: dict[str, int | list[int] | str | Tensor]
) -> NDArray[np.generic] | None:
    """Compute small constants, of which shapes are made."""
    numbers = [value.known for value in given]
    if any(known is None for known in numbers):
        return None
    if _size(_broadcast([value.shape for value in given])) > _MOST_KNOWN:
        return None
    first, *rest = [known for known in numbers if known is not None]
    with np.errstate(all="ignore"):
        if kind == "Identity":
            return first
        if kind == "Cast":
            to = _int(options["to"])
            return first.astype(DTYPES[to]) if to in DTYPES else None
        if kind in ("Floor", "Ceil", "Round"):
            rounds: dict[str, Callable[..., Any]] = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.round}
            return np.asarray(rounds[kind](first))
        if kind == "Div" and first.dtype.kind in "iu":  # towards zero
            over = rest[0].astype(np.int64)
            if not over.all():
                raise ValueError("a size is divided by zero")
            quotient = np.abs(first.astype(np.int64)) // np.abs(over)
            return np.asarray(quotient * np.sign(first.astype(np.int64)) * np.sign(over))
        two = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Mod": np.mod,
               "Max": np.maximum, "Min": np.minimum}.get(kind)  # fmt: skip
        return np.asarray(two(first, rest[0])) if two is not None and len(rest) == 1 else None


def _numbers(value: _Value) -> list[int]:
    """The numbers of a constant. ValueError: they are not known before an image is."""
    if value.known is None:
        raise ValueError("a size depends on what is in the image")
    return [int(number) for number in value.known.ravel().tolist()]


def _ints(value: object) -> list[int]:
    if not isinstance(value, list):
        raise ValueError("an attribute is no list of numbers")
    return [_int(number) for number in value]


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError("an attribute is no number")
    return value


def _broadcast(shapes: Sequence[_Shape]) -> _Shape:
    """Shape of an elementwise operator's result, without numpy's limit on sizes."""
    sides: list[int] = []
    for at in range(-max(map(len, shapes)), 0):
        found = {shape[at] for shape in shapes if len(shape) >= -at} - {1}
        if len(found) > 1:
            raise ValueError("shapes do not fit each other")
        sides.append(found.pop() if found else 1)
    return tuple(sides)


def _size(shape: _Shape) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
