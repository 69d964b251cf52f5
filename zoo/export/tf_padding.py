"""TensorFlow's padding in an ONNX graph without a padding node.

A network that pads as TF does is traced with symmetric padding, whose outputs have the same sizes (ceil of half, for
odd kernels at stride 2), and the strided nodes are then told ``auto_pad = SAME_UPPER``, which is what TF computes: at
even, odd and mixed sizes alike, and at the symmetric network's speed.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def traceable(module: nn.Module) -> tuple[nn.Module, frozenset[str]]:
    """The module with symmetric padding everywhere, and which ONNX operators ``pad_as_tensorflow`` must tell.

    A module that pads symmetrically anyway is returned as it is, with no operators.
    """
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.pool2d_same import MaxPool2dSame

    kinds = {type(layer) for layer in module.modules()} & {Conv2dSame, MaxPool2dSame}
    if not kinds:
        return module, frozenset()
    twin = copy.deepcopy(module)
    for parent in list(twin.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv2dSame):
                setattr(parent, name, _symmetric_convolution(layer))
            elif isinstance(layer, MaxPool2dSame):
                setattr(parent, name, nn.MaxPool2d(layer.kernel_size, layer.stride, _half(layer.kernel_size)))
    return twin, frozenset({Conv2dSame: "Conv", MaxPool2dSame: "MaxPool"}[kind] for kind in kinds)


def pad_as_tensorflow(model: Any, operators: frozenset[str]) -> Any:
    """In place: every strided node of these operators, 1x1 kernels aside, pads with ``SAME_UPPER``."""
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
        _half(layer.kernel_size),
        bias=layer.bias is not None,
        device="meta",
    )
    convolution.weight, convolution.bias = layer.weight, layer.bias
    return convolution


def _half(kernel_size: Any) -> tuple[int, int]:
    height, width = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    return height // 2, width // 2
