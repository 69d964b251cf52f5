"""Build the ONNX graph of an encoder from parts: pixels -> preprocessing -> network -> l2 norm -> embedding.

The core is the network alone: normalised float32 [batch, 3, S, S] -> float32 [batch, D]. ``trace`` makes it, ``half``
and ``zoo.export.quantize.quantize`` convert it to float16 and int8, and ``assemble`` adds the other parts.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import UserError
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from zoo.transforms.tf_bicubic import TfBicubic

PIXELS = ("any", "crop", "normalised")
OPSETS = range(18, 24)  # 18 brought the antialiased Resize; 23 is the newest that onnxruntime 1.22 runs
OPSET = OPSETS[0]  # most runtimes read it, and nothing newer is needed
_IR = 8  # IR version of the parts; the finished file gets the one that its opset needs
_MODES = {"bilinear": 'mode = "linear"', "bicubic": 'mode = "cubic", cubic_coeff_a = -0.5'}  # Pillow's a is -0.5


def trace(module: nn.Module, side: int, channels: int = 3) -> ModelProto:
    """Export the core, float32 [batch, channels, side, side] -> [batch, D], at ``OPSET``.

    The exporter folds batch norms.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    import torch

    # The exporter imports onnxscript late, so its absence is reported here.
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("exporting needs onnx and onnxscript: pip install 'siamese-zoo[onnx]'") from None
    from zoo.export.tf_padding import pad_as_tensorflow, traceable

    # Replace TensorFlow's padding by a symmetric one that the exporter can trace.
    symmetric, operators = traceable(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            symmetric,
            (torch.zeros(2, channels, side, side),),  # the exporter takes a batch of 1 for a constant
            input_names=["normalised"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # only the legacy exporter returns None
    # Put the padding back, and drop the stack traces, which hold paths of this machine.
    return pad_as_tensorflow(without_traces(program.model_proto), operators)


def without_traces(model: ModelProto) -> ModelProto:
    """Remove the exporter's stack traces, which hold paths of this machine; in place."""
    model.doc_string = ""
    for items in (model.graph.node, model.graph.input, model.graph.output, model.graph.value_info):
        for item in items:
            item.doc_string = ""
            del item.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    return model


def half(core: ModelProto) -> ModelProto:
    """Return the core with weights and arithmetic in float16; input and output stay float32.

    Raises:
        UserError: a weight exceeds the range of float16.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    # Work on a copy: the caller may still export the float32 graph.
    core = _copy(core)
    graph = core.graph
    # weights
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                raise UserError(f"{tensor.name} has values beyond float16: export with --precision fp32")
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    del graph.value_info[:]
    # casts at both ends
    source, target = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.input[:] = [f"{source}_half" if name == source else name for name in node.input]
        node.output[:] = [f"{target}_half" if name == target else name for name in node.output]
    graph.node.insert(0, helper.make_node("Cast", [source], [f"{source}_half"], to=TensorProto.FLOAT16))
    graph.node.append(helper.make_node("Cast", [f"{target}_half"], [target], to=TensorProto.FLOAT))
    onnx.checker.check_model(core)
    return core


def assemble(core: ModelProto, preprocessing: Preprocessing, *, pixels: str, normalize: bool, opset: int) -> ModelProto:
    """Return the finished graph: input ``pixels`` (or ``normalised``), output ``embedding`` float32 [batch, D].

    Args:
        pixels: ``any``: uint8 [batch, height, width, 3] of any size, resized and cropped by the graph. ``crop``:
            uint8 [batch, S, S, 3]. ``normalised``: float32 [batch, 3, S, S].
        normalize: end in an l2 norm.

    Raises:
        UserError: ONNX has no operator for the preprocessing's interpolation.
    """
    import onnx
    from onnx import compose, helper, version_converter

    dim = int(core.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    network = compose.add_prefix(core, "network/")  # no name clashes with the other parts
    model = _join(_join(_preprocessing_graph(preprocessing, pixels), network), _l2_graph(dim, normalize))
    if opset != OPSET:
        model = version_converter.convert_version(model, opset)
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    onnx.checker.check_model(model)
    return model


def _preprocessing_graph(preprocessing: Preprocessing, pixels: str) -> ModelProto:
    """The graph from the input to normalised float32 [batch, 3, S, S], with the arithmetic of ``Preprocessing``."""
    # Pixels that the caller normalised need no graph.
    side, channels = preprocessing.input_size, preprocessing.channels
    if pixels == "normalised":
        network_input = f"float[batch, {channels}, {side}, {side}]"
        return _parsed(
            f"front ({network_input} normalised) => ({network_input} ready)", "ready = Identity (normalised)"
        )
    # Fold the division by 255 into mean and standard deviation.
    mean, std = (", ".join(repr(v * 255) for v in values) for values in (preprocessing.mean, preprocessing.std))
    crop, size = "cropped = Transpose <perm = [0, 3, 1, 2]> (pixels)", f"{side}, {side}"
    constants = f"float[{channels},1,1] mean = {{{mean}}}, float[{channels},1,1] std = {{{std}}}"
    # Choose how a photograph becomes the crop.
    if pixels == "any" and preprocessing.tf_bicubic:
        crop, size = _crop_and_resize(preprocessing.tf_bicubic), "height, width"
        share = np.float32(side / preprocessing.resize)
        constants += f""", float[1] share = {{{share}}}, float low = {{0}}, float high = {{255}},
            int64[2] size = {{{side}, {side}}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[2] axes = {{1, 2}}"""
    elif pixels == "any":
        crop, size = _resize_and_crop(preprocessing), "height, width"
        constants += f""", int64[1] resize = {{{preprocessing.resize}}}, int64[1] side = {{{side}}},
            int64[1] two = {{2}}, int64[2] axes = {{2, 3}}"""
    # Every variant ends with the same normalisation.
    return _parsed(
        f"front (uint8[batch, {size}, {channels}] pixels) => (float[batch, {channels}, {side}, {side}] ready)",
        f"""{crop}
            level = Cast <to = 1> (cropped)
            centred = Sub (level, mean)
            ready = Div (centred, std)""",
        constants,
    )


def _resize_and_crop(preprocessing: Preprocessing) -> str:
    """``Preprocessing.pixels`` with Pillow's resize as operators: equal integer sizes, and half-to-even corners.

    For uint8, ONNX Runtime's antialiased Resize rounds to 8 bits after each of its two passes, as Pillow does.
    """
    # Refuse a filter that ONNX has no operator for.
    if preprocessing.interpolation not in _MODES:
        raise UserError(
            f"ONNX has no {preprocessing.interpolation} resize: export with --pixels crop, and resize with Pillow"
        )
    return f"""
            planar = Transpose <perm = [0, 3, 1, 2]> (pixels)
            images = Shape <start = 0, end = 2> (planar)
            sides = Shape <start = 2, end = 4> (planar)
            short = ReduceMin <keepdims = 1> (sides)
            scaled = Mul (sides, resize)
            resized = Div (scaled, short)
            sizes = Concat <axis = 0> (images, resized)
            small = Resize <{_MODES[preprocessing.interpolation]}, antialias = 1, exclude_outside = 1,
                            coordinate_transformation_mode = "half_pixel"> (planar, , , sizes)
            spare = Sub (resized, side)
            below = Div (spare, two)
            between = Mod (spare, two)
            is_odd = Mod (below, two)
            to_even = Mul (between, is_odd)
            corner = Add (below, to_even)
            end = Add (corner, side)
            cropped = Slice (small, corner, end, axes)"""


def _crop_and_resize(tf: TfBicubic) -> str:
    """``TfBicubic.pixels`` as operators without the table of cubics: about one value in two hundred is off by one."""
    # Older TensorFlow samples from the corner of a pixel, and keeps taps outside.
    taps = 'exclude_outside = 1, coordinate_transformation_mode = "half_pixel"'
    if not tf.keys:
        taps = 'exclude_outside = 0, coordinate_transformation_mode = "asymmetric"'
    return f"""
            sides = Shape <start = 1, end = 3> (pixels)
            short = ReduceMin <keepdims = 1> (sides)
            measured = Cast <to = 1> (short)
            exact = Mul (measured, share)
            near = {"Round" if tf.rounded else "Floor"} (exact)
            whole = Cast <to = 7> (near)
            side = Max (whole, one)
            spare = Sub (sides, side)
            more = Add (spare, one)
            corner = Div (more, two)
            end = Add (corner, side)
            piece = Slice (pixels, corner, end, axes)
            planar = Transpose <perm = [0, 3, 1, 2]> (piece)
            fine = Cast <to = 1> (planar)
            images = Shape <start = 0, end = 2> (planar)
            target = Concat <axis = 0> (images, size)
            small = Resize <mode = "cubic", cubic_coeff_a = {tf.a}, {taps}> (fine, , , target)
            bounded = Clip (small, low, high)
            cropped = Round (bounded)"""


def _l2_graph(dim: int, normalize: bool) -> ModelProto:
    signature = f"back (float[batch, {dim}] found) => (float[batch, {dim}] embedding)"
    if not normalize:
        return _parsed(signature, "embedding = Identity (found)")
    return _parsed(
        signature,
        """length = ReduceL2 <keepdims = 1> (found, one)
           safe = Max (length, least)
           embedding = Div (found, safe)""",
        "int64[1] one = {1}, float[1] least = {1e-12}",
    )


def _parsed(signature: str, body: str, constants: str = "") -> ModelProto:
    import onnx.parser

    return onnx.parser.parse_model(
        f'<ir_version: {_IR}, opset_import: ["" : {OPSET}]> {signature} <{constants}> {{ {body} }}'
    )


def _join(first: ModelProto, second: ModelProto) -> ModelProto:
    """Connect the output of ``first`` to the input of ``second``."""
    from onnx import compose

    first.ir_version = second.ir_version = _IR
    joint = (first.graph.output[0].name, second.graph.input[0].name)
    return compose.merge_models(first, second, io_map=[joint], name="siamese-zoo", producer_name="siamese-zoo")


def _copy(model: ModelProto) -> ModelProto:
    twin = type(model)()
    twin.CopyFrom(model)
    return twin
