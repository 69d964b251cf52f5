"""What the operators of an ONNX graph make: the shape of each tensor, and the numbers of small constants.

``results`` follows one operator as the ONNX specification defines it (opset 18 to 23, onnx/docs/Operators.md), without
running it. ``_OPERATORS`` lists those that networks of ``zoo export`` have; any other one is refused by name, because
nobody has said how large its result can be. Numbers are followed where shapes are computed from shapes, as exporters
do it: ``Shape``, ``Gather``, ``Concat``, ``Reshape``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.inference.onnx_wire import DTYPES, Attribute, Node, Tensor

_MOST_KNOWN = 256  # numbers of a tensor that are followed, too
_WIDE = (7, 11, 13)  # INT64, DOUBLE, UINT64 of TensorProto.DataType

Shape = tuple[int, ...]
Options = Mapping[str, Attribute]


@dataclass
class Value:
    """What is known of a tensor: its shape, the bytes of a number, and the numbers if they are few and constant."""

    shape: Shape
    width: int = 4
    known: NDArray[np.generic] | None = None

    @property
    def size(self) -> int:
        """Bytes of all its numbers."""
        return prod(self.shape) * self.width


def constant(tensor: Tensor) -> Value:
    """Return the value of a tensor in the file."""
    known = tensor.values if tensor.values is not None and tensor.values.size <= _MOST_KNOWN else None
    return Value(tensor.shape, 8 if tensor.data_type in _WIDE else 4, known)


def results(node: Node, given: list[Value]) -> list[Value]:
    """Return what an operator makes of its inputs, for each output.

    Raises:
        ValueError: no network has this operator, or its result depends on what is in an image. Inputs and attributes
            that do not fit the operator raise IndexError, KeyError and TypeError as well.
    """
    if node.domain not in ("", "ai.onnx"):
        raise ValueError(f"it has the operator {node.domain}.{node.op_type}")
    if node.op_type == "Split":
        return _split(node, given)
    if node.op_type not in _OPERATORS:
        raise ValueError(f"it has the operator {node.op_type}, which no network of `zoo export` has")
    return [_OPERATORS[node.op_type](node.op_type, given, node.attributes)] * len(node.outputs)


# ---------------------------------------------------------------- number by number


def _same(kind: str, given: list[Value], options: Options) -> Value:
    """Values per channel or number are broadcast to the first input, and never make it larger."""
    return Value(given[0].shape, _widest(given), _computed(kind, given, options))


def _cast(kind: str, given: list[Value], options: Options) -> Value:
    return Value(given[0].shape, 8 if options.get("to") in _WIDE else 4, _computed(kind, given, options))


def _elementwise(kind: str, given: list[Value], options: Options) -> Value:
    return Value(_broadcast([value.shape for value in given]), _widest(given), _computed(kind, given, options))


def _reduced(kind: str, given: list[Value], options: Options) -> Value:
    shape = given[0].shape
    axes = [axis % len(shape) for axis in _axes(given, options)] or list(range(len(shape)))
    keep = _int(options.get("keepdims", 1))
    sides = (1 if at in axes else side for at, side in enumerate(shape) if keep or at not in axes)
    known, reduce = given[0].known, _REDUCTIONS[kind]
    if known is not None:
        known = None if reduce is None else np.asarray(reduce(known, axis=tuple(axes), keepdims=bool(keep)))
    return Value(tuple(sides), _widest(given), known)


# ---------------------------------------------------------------- windows and matrix products


def _convolution(kind: str, given: list[Value], options: Options) -> Value:
    weights = given[3 if kind == "QLinearConv" else 1].shape
    sides = _windows(given[0].shape, weights[2:], options)
    return Value((given[0].shape[0], weights[0], *sides), _widest(given))


def _pooling(kind: str, given: list[Value], options: Options) -> Value:
    sides = _windows(given[0].shape, _ints(options["kernel_shape"]), options)
    return Value((*given[0].shape[:2], *sides), _widest(given))


def _windows(shape: Shape, kernel: Sequence[int], options: Options) -> list[int]:
    """Return the sides of the output of a convolution or pooling."""
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


def _global_pooling(kind: str, given: list[Value], options: Options) -> Value:
    shape = given[0].shape
    return Value((*shape[:2], *[1] * (len(shape) - 2)), _widest(given))


def _gemm(kind: str, given: list[Value], options: Options) -> Value:
    rows = given[0].shape[1 if options.get("transA") else 0]
    return Value((rows, given[1].shape[0 if options.get("transB") else 1]), _widest(given))


def _matrix_product(kind: str, given: list[Value], options: Options) -> Value:
    left, right = given[0].shape, given[1].shape
    if len(left) == 1 or len(right) == 1:
        raise ValueError("a MatMul has vectors")
    return Value((*_broadcast([left[:-2], right[:-2]]), left[-2], right[-1]), _widest(given))


# ---------------------------------------------------------------- numbers that are moved or repeated


def _flatten(kind: str, given: list[Value], options: Options) -> Value:
    shape, axis = given[0].shape, _int(options.get("axis", 1))
    return Value((prod(shape[:axis]), prod(shape[axis:])), given[0].width)


def _transpose(kind: str, given: list[Value], options: Options) -> Value:
    shape = given[0].shape
    order = _ints(options.get("perm", [*range(len(shape))][::-1]))
    return Value(tuple(shape[at] for at in order), given[0].width)


def _reshape(kind: str, given: list[Value], options: Options) -> Value:
    shape = given[0].shape
    sides = [shape[at] if side == 0 else side for at, side in enumerate(_numbers(given[1]))]
    if -1 in sides:
        sides[sides.index(-1)] = prod(shape) // max(1, abs(prod(sides)))
    return _in_shape(given[0], tuple(sides), kind)


def _squeeze(kind: str, given: list[Value], options: Options) -> Value:
    shape = given[0].shape
    axes = [axis % len(shape) for axis in _axes(given, options)] or [at for at, side in enumerate(shape) if side == 1]
    return _in_shape(given[0], tuple(side for at, side in enumerate(shape) if at not in axes), kind)


def _unsqueeze(kind: str, given: list[Value], options: Options) -> Value:
    shape = given[0].shape
    listed = _axes(given, options)
    count = len(shape) + len(listed)
    axes, rest = {axis % count for axis in listed}, iter(shape)
    if len(axes) < len(listed):
        raise ValueError("an Unsqueeze names an axis twice")
    return _in_shape(given[0], tuple(1 if at in axes else next(rest) for at in range(count)), "Squeeze")


def _in_shape(value: Value, shape: Shape, kind: str) -> Value:
    if prod(shape) != prod(value.shape):
        raise ValueError(f"a {kind} changes how many numbers there are")
    return Value(shape, value.width, None if value.known is None else value.known.reshape(shape))


def _concatenated(kind: str, given: list[Value], options: Options) -> Value:
    shape = given[0].shape
    axis = _int(options["axis"]) % len(shape)
    total = sum(value.shape[axis] for value in given)
    parts = [value.known for value in given if value.known is not None]
    joined = np.concatenate(parts, axis) if len(parts) == len(given) and total <= _MOST_KNOWN else None
    return Value((*shape[:axis], total, *shape[axis + 1 :]), _widest(given), joined)


def _split(node: Node, given: list[Value]) -> list[Value]:
    first, count = given[0], len(node.outputs)
    shape, axis = first.shape, _int(node.attributes.get("axis", 0)) % len(first.shape)
    each = -(-shape[axis] // count)
    sides = _numbers(given[1]) if len(given) > 1 else [each] * (count - 1) + [shape[axis] - each * (count - 1)]
    if sum(sides) != shape[axis] or len(sides) != count:
        raise ValueError("a Split changes how many numbers there are")
    return [Value((*shape[:axis], side, *shape[axis + 1 :]), first.width) for side in sides]


def _gathered(kind: str, given: list[Value], options: Options) -> Value:
    first, places = given[:2]
    axis = _int(options.get("axis", 0)) % len(first.shape)
    taken = None
    if first.known is not None and places.known is not None:
        taken = first.known.take(places.known.astype(np.int64), axis)
    return Value((*first.shape[:axis], *places.shape, *first.shape[axis + 1 :]), first.width, taken)


def _sliced(kind: str, given: list[Value], options: Options) -> Value:
    shape, known = given[0].shape, given[0].known
    starts, ends = _numbers(given[1]), _numbers(given[2])
    axes = _numbers(given[3]) if len(given) > 3 and given[3].known is not None else list(range(len(starts)))
    steps = _numbers(given[4]) if len(given) > 4 else [1] * len(starts)
    cut = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, end if step > 0 or end >= -shape[axis] else None, step)
    sides = tuple(len(range(*part.indices(side))) for part, side in zip(cut, shape, strict=True))
    return Value(sides, given[0].width, None if known is None else known[tuple(cut)])


def _padded(kind: str, given: list[Value], options: Options) -> Value:
    sides = list(given[0].shape)
    pads, axes = _numbers(given[1]), _numbers(given[3]) if len(given) > 3 else list(range(len(sides)))
    for number, axis in enumerate(axes):
        sides[axis] += pads[number] + pads[number + len(axes)]
    return Value(tuple(sides), given[0].width)


def _resized(kind: str, given: list[Value], options: Options) -> Value:
    sides = list(given[0].shape)
    axes = _ints(options.get("axes", list(range(len(sides)))))
    if len(given) > 3:
        for axis, side in zip(axes, _numbers(given[3]), strict=True):
            sides[axis] = side
        return Value(tuple(sides), given[0].width)
    scales = given[2]
    if scales.known is None or len(scales.shape) != 1:
        raise ValueError("a size depends on what is in the image")
    for axis, scale in zip(axes, scales.known.tolist(), strict=True):
        sides[axis] = int(sides[axis] * scale)
    return Value(tuple(sides), given[0].width)


def _expanded(kind: str, given: list[Value], options: Options) -> Value:
    return Value(_broadcast([given[0].shape, tuple(_numbers(given[1]))]), given[0].width)


def _tiled(kind: str, given: list[Value], options: Options) -> Value:
    sides = (side * times for side, times in zip(given[0].shape, _numbers(given[1]), strict=True))
    return Value(tuple(sides), given[0].width)


# ---------------------------------------------------------------- constants, and what is computed from them


def _constant_of_attribute(kind: str, given: list[Value], options: Options) -> Value:
    if len(options) != 1:
        raise ValueError("a constant has no value, or several")
    (value,) = options.values()
    if isinstance(value, Tensor):
        return constant(value)
    if isinstance(value, int | list):
        return Value(np.shape(value), 8, np.array(value, np.int64) if np.size(value) <= _MOST_KNOWN else None)
    raise ValueError("a constant is no number")


def _constant_of_shape(kind: str, given: list[Value], options: Options) -> Value:
    value = options.get("value")
    return Value(tuple(_numbers(given[0])), 8 if isinstance(value, Tensor) and value.data_type in _WIDE else 4)


def _shape_of(kind: str, given: list[Value], options: Options) -> Value:
    start, end = (options.get(name) for name in ("start", "end"))
    sides = given[0].shape[start if isinstance(start, int) else None : end if isinstance(end, int) else None]
    return Value((len(sides),), 8, np.array(sides, np.int64))


def _computed(kind: str, given: list[Value], options: Options) -> NDArray[np.generic] | None:
    """Compute small constants, of which shapes are made; ``None`` where a number is not known, or not needed."""
    numbers = [value.known for value in given if value.known is not None]
    if len(numbers) < len(given) or prod(_broadcast([value.shape for value in given])) > _MOST_KNOWN:
        return None
    first, *rest = numbers
    with np.errstate(all="ignore"):
        if kind == "Identity":
            return first
        if kind == "Cast":
            to = _int(options["to"])
            return first.astype(DTYPES[to]) if to in DTYPES else None
        if kind in _ROUNDINGS:
            return np.asarray(_ROUNDINGS[kind](first))
        if kind == "Div" and first.dtype.kind in "iu":  # towards zero
            over = rest[0].astype(np.int64)
            if not over.all():
                raise ValueError("a size is divided by zero")
            quotient = np.abs(first.astype(np.int64)) // np.abs(over)
            return np.asarray(quotient * np.sign(first.astype(np.int64)) * np.sign(over))
        if kind in _ARITHMETIC and len(rest) == 1:
            return np.asarray(_ARITHMETIC[kind](first, rest[0]))
    return None


# ---------------------------------------------------------------- checked access


def _widest(given: list[Value]) -> int:
    return max((value.width for value in given), default=4)


def _axes(given: list[Value], options: Options) -> list[int]:
    """Return the axes of an operator, from an attribute or an input, as it says them; an empty list if it does not."""
    if "axes" in options:
        return _ints(options["axes"])
    return _numbers(given[1]) if len(given) > 1 else []


def _numbers(value: Value) -> list[int]:
    """Return the numbers of a constant. ValueError: they are not known before an image is."""
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


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of an elementwise operator's result, without numpy's limit on sizes."""
    sides: list[int] = []
    for at in range(-max(map(len, shapes)), 0):
        found = {shape[at] for shape in shapes if len(shape) >= -at} - {1}
        if len(found) > 1:
            raise ValueError("shapes do not fit each other")
        sides.append(found.pop() if found else 1)
    return tuple(sides)


# ---------------------------------------------------------------- the operators

_ROUNDINGS: Mapping[str, Callable[..., Any]] = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.round}
_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Mod": np.mod, "Max": np.maximum,
    "Min": np.minimum,
}  # fmt: skip
_REDUCTIONS: Mapping[str, Callable[..., Any] | None] = {  # None: no shape is made of its numbers
    "ReduceMin": np.min, "ReduceMax": np.max, "ReduceProd": np.prod, "ReduceSum": np.sum,
    "ReduceMean": None, "ReduceL1": None, "ReduceL2": None, "ReduceSumSquare": None,
}  # fmt: skip
_OPERATORS: Mapping[str, Callable[[str, list[Value], Options], Value]] = {
    **dict.fromkeys((
        "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Identity", "Abs", "Neg", "Sqrt", "Exp", "Log", "Floor", "Ceil",
        "Round", "Clip", "HardSigmoid", "HardSwish", "Elu", "Selu", "Softmax", "LogSoftmax", "Softplus", "Erf",
        "Reciprocal", "Sign", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
        "GroupNormalization", "LpNormalization", "Dropout", "QuantizeLinear", "DequantizeLinear", "Gelu", "Mish",
        "Not", "PRelu", "IsNaN", "Sin", "Cos",
    ), _same),
    **dict.fromkeys((
        "Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Sum", "Mean", "Equal", "Greater", "Less", "Where",
        "And", "Or", "Xor", "LessOrEqual", "GreaterOrEqual",
    ), _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv"), _convolution),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pooling),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pooling),
    "Cast": _cast, "Gemm": _gemm, "MatMul": _matrix_product,
    "Flatten": _flatten, "Transpose": _transpose, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Concat": _concatenated, "Gather": _gathered, "Slice": _sliced, "Pad": _padded, "Resize": _resized,
    "Expand": _expanded, "Tile": _tiled,
    "Constant": _constant_of_attribute, "ConstantOfShape": _constant_of_shape, "Shape": _shape_of,
}  # fmt: skip
