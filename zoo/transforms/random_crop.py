"""Sizes of random crops by two published rules, BYOL's and torchvision's; training and evaluation share them."""

from __future__ import annotations

from math import exp, log

import numpy as np
from numpy.typing import NDArray

TRIES = 10  # torchvision's RandomResizedCrop
_LOG_ASPECT = log(4 / 3)  # both codes: log-uniform in 3/4 .. 4/3

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def clamped_size(area: tuple[float, float], heights: Ints, widths: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    """Crop heights and widths by BYOL's rule: one draw per image, clamped to the image.

    Args:
        area: smallest and largest fraction of the image's area.
        heights, widths: pixels of the images, [B].
        u, v: uniform draws in [0, 1), [B].
    """
    height, width = _sizes(area, heights, widths, u, v)
    return np.clip(height, 1, heights), np.clip(width, 1, widths)


def retried_size(area: tuple[float, float], heights: Ints, widths: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    """Crop heights and widths by torchvision's rule: the first of ten draws that fits into the image.

    Where none fits, the crop is the whole image, cut to the nearest allowed aspect ratio.

    Args:
        area: smallest and largest fraction of the image's area.
        heights, widths: pixels of the images, [B].
        u, v: uniform draws in [0, 1), [B, TRIES].
    """
    height, width = (s.T for s in _sizes(area, heights, widths, u.T, v.T))
    fits = (height > 0) & (width > 0) & (height <= heights[:, None]) & (width <= widths[:, None])
    first = fits.argmax(1)
    rows = np.arange(len(heights))
    widest = exp(_LOG_ASPECT)
    return (
        np.where(fits.any(1), height[rows, first], np.minimum(heights, np.round(widths * widest))).astype(np.int64),
        np.where(fits.any(1), width[rows, first], np.minimum(widths, np.round(heights * widest))).astype(np.int64),
    )


def _sizes(area: tuple[float, float], heights: Ints, widths: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    pixels = heights * widths * (area[0] + u * (area[1] - area[0]))
    aspect = np.exp((2 * v - 1) * _LOG_ASPECT)
    return np.round(np.sqrt(pixels / aspect)).astype(np.int64), np.round(np.sqrt(pixels * aspect)).astype(np.int64)
