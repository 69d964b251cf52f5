"""The resize of an exported file alone: what comes out are the pixels that go into the network."""

from __future__ import annotations

import onnx
import onnxruntime

from zoo.export.onnx_graph import assemble
from zoo.transforms.preprocess import Preprocessing


def resize_graph(preprocessing: Preprocessing) -> onnxruntime.InferenceSession:
    """``pixels`` uint8 [1, H, W, 3] -> float32 [1, 3 * side * side], channel after channel."""
    side = preprocessing.input_size
    identity = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[batch, 3, {side}, {side}] x) =>
        (float[batch, {3 * side * side}] y) {{ y = Flatten (x) }}"""
    )
    model = assemble(identity, preprocessing, pixels="any", normalize=False, opset=18)
    return onnxruntime.InferenceSession(model.SerializeToString())
