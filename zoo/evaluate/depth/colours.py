"""Random changes of an image's colours, as ``tf.image`` makes them: brightness adds, saturation and hue are HSV's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.evaluate.dense.augment import COLOUR_STREAM, draw_uniforms
from zoo.evaluate.dense.schedules import DepthSchedule

_LUMA = np.array([0.2989, 0.5870, 0.1140], np.float32)  # tf.image.rgb_to_grayscale


def change_colours(image: Image.Image, schedule: DepthSchedule, seed: int, epoch: int, row: int) -> Image.Image:
    """Return an RGB image with the schedule's changes, drawn from (seed, epoch, row), in the order [B] lists them.

    They are [B] app. D.6's (BYOL, arXiv 2006.07733): grayscale, brightness, saturation, hue. Values are clipped to 0..1
    after each.
    """
    low, high = schedule.saturation
    # Draw all numbers first, so that one change does not shift another.
    gray, added, factor, turned = draw_uniforms(seed, COLOUR_STREAM, epoch, row, 4)
    x: NDArray[np.float32] = np.asarray(image, np.float32) / np.float32(255)
    # Grayscale and brightness act on the pixels directly.
    if gray < schedule.grayscale:
        x = np.repeat((x @ _LUMA)[..., None], 3, axis=2)
    if schedule.brightness:
        x = np.clip(x + np.float32((2 * added - 1) * schedule.brightness), np.float32(0), np.float32(1))
    # Saturation and hue follow, each only where the schedule has it.
    if (low, high) != (1, 1):
        x = scale_saturation(x, low + (high - low) * factor)
    if schedule.hue:
        x = turn_hue(x, (2 * turned - 1) * schedule.hue)
    return Image.fromarray(np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8))


def scale_saturation(x: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Multiply the saturation of float [H, W, 3] in 0..1 by a factor; it stays at or below 1."""
    value, chroma = _value_and_chroma(x)
    # the distance of a channel from the value is proportional to the saturation
    scale = np.minimum(np.float32(factor), value / np.maximum(chroma, np.float32(1e-30)))
    scaled: NDArray[np.float32] = value + (x - value) * scale
    return scaled


def turn_hue(x: NDArray[np.float32], turns: float) -> NDArray[np.float32]:
    """Add to the hue of float [H, W, 3] in 0..1; one turn is the whole circle."""
    value, chroma = _value_and_chroma(x)
    r, g, b = x[..., :1], x[..., 1:2], x[..., 2:]
    divisor = np.maximum(chroma, np.float32(1e-30))
    sixths = np.where(r == value, (g - b) / divisor, np.where(g == value, 2 + (b - r) / divisor, 4 + (r - g) / divisor))
    sixths = (sixths + np.float32(6 * turns)) % 6
    weights = np.concatenate([np.abs(sixths - 3) - 1, 2 - np.abs(sixths - 2), 2 - np.abs(sixths - 4)], axis=2)
    turned: NDArray[np.float32] = (value - chroma + chroma * np.clip(weights, 0, 1)).astype(np.float32)
    return turned


def _value_and_chroma(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return V of HSV and the largest minus the smallest channel, each [H, W, 1]."""
    value = x.max(axis=2, keepdims=True)
    return value, value - x.min(axis=2, keepdims=True)
