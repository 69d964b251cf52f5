"""Crop, then TensorFlow's bicubic resize: how BYOL's and SimCLR's official codes look at a test image.

Neither antialiases: each output pixel is a cubic of the four nearest lines and the four nearest columns, whatever the
scale. The two differ in everything else, because SimCLR calls TensorFlow 1's function. The arithmetic is that of
TensorFlow's ``resize_bicubic_op.cc``: float32, lines before columns, cubics looked up at 1/1024 of a pixel.

What still differs from the official codes: they keep fractions of a level, and TensorFlow decodes JPEG with the fast
integer transform, Pillow with the accurate one.
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

_STEPS = 1024  # kTableSize: the cubic's argument is rounded to this part of a pixel


@dataclass(frozen=True)
class CropFirst:
    """One official code's way.

    Attributes:
        keys: TensorFlow 2's function (Keys' a = -.5, half-pixel centres, taps outside of the crop left out and the
            others scaled up), else TensorFlow 1's (a = -.75, corners of pixels, taps outside take the edge).
        rounded: the side of the crop is rounded, half to even, else its fraction is cut off.
        function: what TensorFlow calls it.
        source: the official code.
    """

    keys: bool
    rounded: bool
    function: str
    source: str

    @property
    def a(self) -> float:
        """The cubic's parameter."""
        return -0.5 if self.keys else -0.75

    def box(self, width: int, height: int, share: float) -> Box:
        """The centre crop of an image: left, top, right, bottom; at least one pixel, where the codes would fail.

        Args:
            width, height: pixels.
            share: of the short side, in 0..1; .875 in both codes.
        """
        import numpy as np

        exact = np.float32(share) * np.float32(min(width, height))
        side = max(1, int(np.rint(exact) if self.rounded else exact))
        left, top = (width - side + 1) // 2, (height - side + 1) // 2
        return left, top, left + side, top + side

    def levels(self, image: Image, box: Box, size: int) -> NDArray[np.float32]:
        """A box of an RGB image, resized to a square: float32 [size, size, 3] in 0..255, overshoots cut off."""
        import numpy as np

        pixels = np.asarray(image.crop(box))
        index, weight = self._taps(pixels.shape[0], size)
        lines = np.zeros((size, *pixels.shape[1:]), np.float32)
        for rows, share in zip(index, weight, strict=True):
            lines += share[:, None, None] * pixels[rows]
        index, weight = self._taps(pixels.shape[1], size)
        levels = np.zeros((size, size, 3), np.float32)
        for columns, share in zip(index, weight, strict=True):
            levels += share[:, None] * lines[:, columns]
        return np.clip(levels, 0, 255, out=levels)

    def pixels(self, image: Image, box: Box, size: int) -> NDArray[np.uint8]:
        """``levels`` in whole numbers, uint8 [size, size, 3].

        The official codes go on with the fractions, up to half a level away; here pixels are bytes everywhere.
        """
        import numpy as np

        return np.rint(self.levels(image, box, size)).astype(np.uint8)

    def _taps(self, length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Which of ``length`` lines make each of ``size``, and their weights: two arrays [4, size]."""
        import numpy as np

        scale, out = np.float32(length / size), np.arange(size, dtype=np.float32)
        place = (out + np.float32(0.5)) * scale - np.float32(0.5) if self.keys else out * scale
        first = np.floor(place)
        after = np.rint((place - first) * _STEPS).astype(np.float64) / _STEPS
        index = first.astype(np.intp) + np.array([[-1], [0], [1], [2]])
        cubics = [self._far(1 + after), self._near(after), self._near(1 - after), self._far(2 - after)]
        weight = np.stack(cubics).astype(np.float32)
        inside = np.clip(index, 0, length - 1)
        if self.keys:
            weight = np.where(index == inside, weight, np.float32(0))
            weight *= 1 / weight.sum(0)
        return inside, weight

    def _near(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The cubic in 0..1."""
        return ((self.a + 2) * x - (self.a + 3)) * x * x + 1

    def _far(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The cubic in 1..2."""
        return ((self.a * x - 5 * self.a) * x + 8 * self.a) * x - 4 * self.a


CROP_FIRST: Mapping[str, CropFirst] = {
    "byol": CropFirst(
        keys=True,
        rounded=False,
        function="tf.image.resize",
        source="google-deepmind/deepmind-research, byol/utils/dataset.py",
    ),
    "simclr": CropFirst(
        keys=False,
        rounded=True,
        function="tf.compat.v1.image.resize_bicubic",
        source="google-research/simclr, data_util.py",
    ),
}
