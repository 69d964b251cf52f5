"""A float32 ONNX graph to static int8: QDQ, weights per channel in int8, activations in uint8.

Static, not dynamic: the ranges of all activations are measured once, on photographs, and stand in the file.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.transforms.preprocess import Preprocessing

_LEAST_CALIBRATION = 64  # network inputs; fewer photographs than that are cut and mirrored into more
_BATCH = 8


def calibration_pixels(
    photographs: Sequence[Image.Image], preprocessing: Preprocessing, least: int = _LEAST_CALIBRATION
) -> NDArray[np.uint8]:
    """Network inputs to measure ranges on: uint8 [N, S, S, 3] with N >= ``least``, the same for the same photographs.

    First each photograph as it is, then mirrored, then squares of it, larger and smaller, at places that follow
    a low-discrepancy sequence.
    """
    rows = [preprocessing.pixels(image) for image in photographs]
    rows += [row[:, ::-1] for row in rows[: max(0, least - len(rows))]]
    number = 0
    while len(rows) < least:
        image = photographs[number % len(photographs)]
        share, x, y = (number * step % 1.0 for step in (0.8191725, 0.6710436, 0.5497005))  # R3 of M. Roberts, 2018
        side = round(min(image.size) * (0.4 + 0.6 * share))
        left, top = round(x * (image.width - side)), round(y * (image.height - side))
        rows.append(preprocessing.pixels(image.crop((left, top, left + side, top + side))))
        number += 1
    return np.ascontiguousarray(np.stack(rows))


def quantize(core: Any, inputs: NDArray[np.float32]) -> Any:
    """The graph with its convolutions, sums and pools in int8.

    Args:
        core: ``onnx.ModelProto`` with one input, normalised float32 [batch, 3, S, S]; not changed.
        inputs: what its ranges are measured on, of that shape.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    name = core.graph.input[0].name

    class Inputs(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[NDArray[np.float32]] = iter(
                inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)
            )

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    with tempfile.TemporaryDirectory() as scratch:
        whole, small = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        onnx.save(core, whole)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it advises on the root logger to run a pass that is not needed here
        try:
            quantize_static(
                whole,
                small,
                Inputs(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        finally:
            root.setLevel(level)
        return onnx.load(small)
