"""Static int8 quantisation of a float32 ONNX graph: QDQ format, int8 weights per channel, uint8 activations.

Static means that the ranges of all activations are measured once, on photographs, and stored in the file. Weights use
7 of their 8 bits, unless the file stays on a CPU with VNNI instructions. Other CPUs add pairs of products in 16 bits,
which overflow with weights of 8 bits (``reduce_range`` in ONNX Runtime's documentation of quantisation): the bundled
networks then had cosines down to .69 with torch.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

_MIN_INPUTS = 64  # fewer photographs than this are cropped and mirrored into more inputs
_BATCH = 8


def calibration_pixels(
    photographs: Sequence[Image.Image], preprocessing: Preprocessing, least: int = _MIN_INPUTS
) -> NDArray[np.uint8]:
    """Return network inputs to measure ranges on: uint8 [N, S, S, 3] with N >= ``least``; deterministic.

    They are the photographs, then their mirror images, then squares of them whose sizes and positions follow a
    low-discrepancy sequence.
    """
    rows = [preprocessing.pixels(image) for image in photographs]
    rows += [row[:, ::-1] for row in rows[: max(0, least - len(rows))]]
    number = 0
    while len(rows) < least:
        image = photographs[number % len(photographs)]
        scale, x, y = (number * step % 1.0 for step in (0.8191725, 0.6710436, 0.5497005))  # R3 of M. Roberts, 2018
        side = round(min(image.size) * (0.4 + 0.6 * scale))
        left, top = round(x * (image.width - side)), round(y * (image.height - side))
        rows.append(preprocessing.pixels(image.crop((left, top, left + side, top + side))))
        number += 1
    return np.ascontiguousarray(np.stack(rows))


def quantize(core: ModelProto, inputs: NDArray[np.float32], weight_bits: int) -> ModelProto:
    """Return the graph with its convolutions, sums and pools in int8.

    Args:
        core: graph with one input, normalised float32 [batch, 3, S, S]; it is not changed.
        inputs: inputs of that shape, on which the ranges are measured.
        weight_bits: 7 or 8.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    name = core.graph.input[0].name

    # Hand the calibration images over in batches.
    class Inputs(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[NDArray[np.float32]] = iter(
                inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)
            )

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    # The quantiser reads and writes files only.
    with tempfile.TemporaryDirectory() as scratch:
        whole, small = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        onnx.save(core, whole)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it logs advice about a pass that is not needed here
        try:
            quantize_static(
                whole,
                small,
                Inputs(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=weight_bits == 7,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        finally:
            root.setLevel(level)
        return onnx.load(small)
