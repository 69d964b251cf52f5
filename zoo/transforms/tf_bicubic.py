"""TensorFlow's bicubic resize of a centre crop, as BYOL's and SimCLR's official codes preprocess a test image.

Neither code antialiases: each output pixel is a cubic of the four nearest rows and the four nearest columns, whatever
the scale. They differ in everything else, because SimCLR calls TensorFlow 1's function. The arithmetic follows
TensorFlow's ``resize_bicubic_op.cc``: float32, rows before columns, cubic weights from a table with 1024 steps a pixel.

Why it is written here: Pillow's resize would change an embedding by 5.8 % (BYOL) and 8.3 % (SimCLR) of its largest
value (``benchmarks/results/resizing.json``), and TensorFlow's own needs a wheel of 274 MB (tensorflow-cpu 2.21).

Two differences from the official codes remain. They keep fractional pixel values, and TensorFlow decodes JPEG with the
fast integer transform, Pillow with the accurate one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Box = tuple[int, int, int, int]

_STEPS = 1024  # kTableSize: positions are rounded to this fraction of a pixel


@dataclass(frozen=True)
class TfBicubic:
    """The crop and resize of one official code.

    Attributes:
        keys: True for TensorFlow 2's function: Keys' cubic with a = -.5, half-pixel centres, taps outside of the crop
            are left out and the others rescaled. False for TensorFlow 1's: a = -.75, positions from the corners of
            pixels, taps outside of the crop repeat the edge.
        rounded: round the side of the crop half to even; otherwise cut its fraction off.
        function: name of the TensorFlow function.
        source: the official code that calls it.
    """

    keys: bool
    rounded: bool
    function: str
    source: str

    @property
    def a(self) -> float:
        """The cubic's parameter."""
        return -0.5 if self.keys else -0.75

    def box(self, width: int, height: int, fraction: float) -> Box:
        """Return the centre crop of an image: left, top, right, bottom.

        The crop has at least one pixel, also where the official codes would fail.

        Args:
            width, height: size of the image in pixels.
            fraction: side of the crop as a fraction of the short side, in 0..1; .875 in both codes.
        """
        import numpy as np

        exact = np.float32(fraction) * np.float32(min(width, height))
        side = max(1, int(np.rint(exact) if self.rounded else exact))
        left, top = (width - side + 1) // 2, (height - side + 1) // 2
        return left, top, left + side, top + side

    def float_pixels(self, image: Image, box: Box, size: int) -> NDArray[np.float32]:
        """Resize a box of an RGB image to a square, float32 [size, size, 3]; overshoots are clipped to 0..255."""
        import numpy as np

        pixels = np.asarray(image.crop(box))
        # rows first, as TensorFlow does: [size, W, 3]
        index, weight = self._taps(pixels.shape[0], size)
        rows = np.zeros((size, *pixels.shape[1:]), np.float32)
        for tap, factor in zip(index, weight, strict=True):
            rows += factor[:, None, None] * pixels[tap]
        # then columns
        index, weight = self._taps(pixels.shape[1], size)
        square = np.zeros((size, size, 3), np.float32)
        for tap, factor in zip(index, weight, strict=True):
            square += factor[:, None] * rows[:, tap]
        return np.clip(square, 0, 255, out=square)

    def pixels(self, image: Image, box: Box, size: int) -> NDArray[np.uint8]:
        """``float_pixels`` rounded to uint8 [size, size, 3].

        The official codes do not round; all other pixels of this package are bytes, so these are too.
        """
        import numpy as np

        return np.rint(self.float_pixels(image, box, size)).astype(np.uint8)

    def _taps(self, length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return the four source rows of each of ``size`` output rows, and their weights: two arrays [4, size]."""
        import numpy as np

        # Find the source position of each output pixel.
        scale, out = np.float32(length / size), np.arange(size, dtype=np.float32)
        position = (out + np.float32(0.5)) * scale - np.float32(0.5) if self.keys else out * scale
        first = np.floor(position)
        # TensorFlow rounds offsets to the steps of its table.
        offset = np.rint((position - first) * _STEPS).astype(np.float64) / _STEPS
        index = first.astype(np.intp) + np.array([[-1], [0], [1], [2]])
        # Weigh the four neighbours.
        cubics = [self._outer(1 + offset), self._inner(offset), self._inner(1 - offset), self._outer(2 - offset)]
        weight = np.stack(cubics).astype(np.float32)
        # Clamp the taps at the edges, which Keys' kernel leaves out instead.
        inside = np.clip(index, 0, length - 1)
        if self.keys:
            weight = np.where(index == inside, weight, np.float32(0))
            weight *= 1 / weight.sum(0)
        return inside, weight

    def _inner(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The cubic for distances in 0..1."""
        return ((self.a + 2) * x - (self.a + 3)) * x * x + 1

    def _outer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The cubic for distances in 1..2."""
        return ((self.a * x - 5 * self.a) * x + 8 * self.a) * x - 4 * self.a


TF_BICUBIC: Mapping[str, TfBicubic] = {
    "byol": TfBicubic(
        keys=True,
        rounded=False,
        function="tf.image.resize",
        source="google-deepmind/deepmind-research, byol/utils/dataset.py",
    ),
    "simclr": TfBicubic(
        keys=False,
        rounded=True,
        function="tf.compat.v1.image.resize_bicubic",
        source="google-research/simclr, data_util.py",
    ),
}
