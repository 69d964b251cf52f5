"""TensorFlow's asymmetric padding in an ONNX graph without Pad nodes.

A network with TensorFlow's padding is traced with symmetric padding, whose outputs have the same sizes (odd kernels at
stride 2 give ceil(size / 2)). The strided nodes then get ``auto_pad = SAME_UPPER``, which is TensorFlow's padding at
even, odd and mixed sizes. The graph runs as fast as one with symmetric padding.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from onnx import ModelProto


def traceable(module: nn.Module) -> tuple[nn.Module, frozenset[str]]:
    """Return a copy with symmetric padding, and the ONNX operators that ``pad_as_tensorflow`` must change.

    A module that pads symmetrically already is returned itself, with no operators.
    """
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.pool2d_same import MaxPool2dSame

    # A network without TensorFlow's padding is traced as it is.
    kinds = {type(layer) for layer in module.modules()} & {Conv2dSame, MaxPool2dSame}
    if not kinds:
        return module, frozenset()
    # Swap the layers in a copy, which the export alone sees.
    twin = copy.deepcopy(module)
    for parent in list(twin.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv2dSame):
                setattr(parent, name, _symmetric_convolution(layer))
            elif isinstance(layer, MaxPool2dSame):
                padding = _symmetric_padding(layer.kernel_size)
                setattr(parent, name, nn.MaxPool2d(layer.kernel_size, layer.stride, padding))
    return twin, frozenset({Conv2dSame: "Conv", MaxPool2dSame: "MaxPool"}[kind] for kind in kinds)


def pad_as_tensorflow(model: ModelProto, operators: frozenset[str]) -> ModelProto:
    """Set ``SAME_UPPER`` padding on every strided node of these operators, except 1x1 kernels; in place."""
    from onnx import helper

    for node in model.graph.node:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        strides, kernel = (values.get(name, [1]) for name in ("strides", "kernel_shape"))
        if node.op_type not in operators or max(strides) == 1 or max(kernel) == 1:
            continue
        kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])
    return model


def _symmetric_convolution(layer: nn.Conv2d) -> nn.Conv2d:
    convolution = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size[0], layer.kernel_size[1]),
        (layer.stride[0], layer.stride[1]),
        _symmetric_padding(layer.kernel_size),
        bias=layer.bias is not None,
        device="meta",
    )
    convolution.weight, convolution.bias = layer.weight, layer.bias
    return convolution


def _symmetric_padding(kernel_size: int | tuple[int, ...]) -> tuple[int, int]:
    height, width = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    return height // 2, width // 2
