"""Sizes of random crops by three published rules; training and evaluation share them.

The rules are BYOL's, torchvision's (MoCo, SimSiam, SwAV) and TensorFlow's (SimCLR).
"""

from __future__ import annotations

from math import exp, log

import numpy as np
from numpy.typing import NDArray

TRIES = 10  # torchvision's RandomResizedCrop
TF_TRIES = 100  # SimCLR's data_util.py: max_attempts
_LOG_ASPECT = log(4 / 3)  # BYOL's and torchvision's codes: log-uniform in 3/4 .. 4/3
_COVERED = 0.1  # SimCLR's data_util.py: min_object_covered, whose object is the whole image

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


def retried_size(
    area: tuple[float, float], heights: Ints, widths: Ints, u: Floats, v: Floats
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Crop heights and widths by torchvision's rule: the first of ten draws that fits into the image.

    Where none fits, the crop is the whole image, cut to the nearest allowed aspect ratio; the third array says where.
    Such a crop lies in the middle of the image (``central_offset``), not at a random place.

    Args:
        area: smallest and largest fraction of the image's area.
        heights, widths: pixels of the images, [B].
        u, v: uniform draws in [0, 1), [B, TRIES].
    """
    height, width = (s.T for s in _sizes(area, heights, widths, u.T, v.T))
    fits = (height > 0) & (width > 0) & (height <= heights[:, None]) & (width <= widths[:, None])
    first, fell_back = fits.argmax(1), np.logical_not(fits.any(1))
    rows = np.arange(len(heights))
    widest = exp(_LOG_ASPECT)
    return (
        np.where(fell_back, np.minimum(heights, np.round(widths * widest)), height[rows, first]).astype(np.int64),
        np.where(fell_back, np.minimum(widths, np.round(heights * widest)), width[rows, first]).astype(np.int64),
        fell_back,
    )


def central_offset(length: Ints, crop: Ints) -> Ints:
    """Return the start of a crop in the middle of ``length`` pixels (torchvision's ``transforms.py``)."""
    return (length - crop) // 2


def tf_size(area: tuple[float, float], heights: Ints, widths: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    """Return height and width by TensorFlow's ``sample_distorted_bounding_box_op.cc``, as SimCLR calls it.

    The aspect and the height are uniform, so the area is not: its mean is .39 of a photograph of 375 x 500, where
    BYOL's rule has .52. A crop must cover .1 of the whole image, so .1 is the smallest area, not .08. If none of 100
    draws (u, v uniform [B, TF_TRIES]) does, the crop is the whole image.
    """
    height, width = heights.astype(np.float64)[:, None], widths.astype(np.float64)[:, None]
    pixels = height * width
    smallest, largest = area[0] * pixels, area[1] * pixels
    aspect = 3 / 4 + u * (4 / 3 - 3 / 4)

    # The height is uniform between those of the smallest and of the largest crop that fits.
    lower, upper = np.rint(np.sqrt(smallest / aspect)), np.rint(np.sqrt(largest / aspect))
    too_wide = np.rint(upper * aspect) > width
    upper = np.where(too_wide, np.trunc((width + 0.5 - 1e-7) / aspect), upper)
    upper = np.minimum(upper, height)
    lower = np.minimum(lower, upper)
    h = lower + np.floor(v * (upper - lower + 1))

    # Rounding may put the area just outside of its range: one pixel of height more or less.
    h += np.rint(h * aspect) * h < smallest
    h -= np.rint(h * aspect) * h > largest
    w = np.rint(h * aspect)
    fits = (w * h >= smallest) & (w * h <= largest) & (w * h >= _COVERED * pixels)
    fits &= (w <= width) & (h <= height) & (w > 0) & (h > 0)

    # Take the first try that fits, else the whole image.
    first, found, rows = fits.argmax(1), fits.any(1), np.arange(len(heights))
    return (
        np.where(found, h[rows, first], heights).astype(np.int64),
        np.where(found, w[rows, first], widths).astype(np.int64),
    )


def _sizes(area: tuple[float, float], heights: Ints, widths: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    pixels = heights * widths * (area[0] + u * (area[1] - area[0]))
    aspect = np.exp((2 * v - 1) * _LOG_ASPECT)
    return np.round(np.sqrt(pixels / aspect)).astype(np.int64), np.round(np.sqrt(pixels * aspect)).astype(np.int64)
