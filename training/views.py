"""Two views of a batch, made on the training device from parameters drawn for each sample on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import image_ops
from training.config import View, Views
from training.draws import uniforms

_LOG_ASPECT = log(4 / 3)  # both codes: log-uniform in 3/4 .. 4/3
_CROP_TRIES = 10  # torchvision's RandomResizedCrop
_SIGMA = (0.1, 2.0)  # both codes, in pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, both codes


Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """Parameters of one view of B samples; each an array with B rows."""

    box: Ints  # [B, 4] top, left, height, width
    flip: NDArray[np.bool_]
    jitter: NDArray[np.bool_]
    strengths: Floats  # [B, 4] brightness, contrast, saturation, hue; in [-1, 1]
    order: Ints  # [B, 4] a permutation: which of the four comes first, second, ...
    grayscale: NDArray[np.bool_]
    blur: NDArray[np.bool_]
    sigma: Floats
    solarize: NDArray[np.bool_]


def draw(
    view: View,
    operations: str,
    heights: Ints,
    widths: Ints,
    indices: Ints,
    *,
    seed: int,
    epoch: int,
    stream: int,
) -> Draw:
    """The parameters of samples ``indices`` (with their sizes) in ``epoch``; a pure function of its arguments."""
    u = iter(uniforms(seed, stream, epoch, indices, 2 * _CROP_TRIES + 17).T)
    areas, aspects = (np.stack([next(u) for _ in range(_CROP_TRIES)], 1) for _ in range(2))
    if operations == "byol":
        size = _clamped_size(view.min_area, heights, widths, areas[:, 0], aspects[:, 0])
    else:
        size = _retried_size(view.min_area, heights, widths, areas, aspects)
    height, width = size
    top = np.floor(next(u) * (heights - height + 1)).astype(np.int64)
    left = np.floor(next(u) * (widths - width + 1)).astype(np.int64)
    return Draw(
        box=np.stack([top, left, height, width], 1),
        flip=next(u) < 0.5,
        jitter=next(u) < view.jitter_p,
        strengths=np.stack([2 * next(u) - 1 for _ in range(4)], 1),
        order=np.argsort(np.stack([next(u) for _ in range(4)], 1), axis=1),
        grayscale=next(u) < view.grayscale_p,
        blur=next(u) < view.blur_p,
        sigma=_SIGMA[0] + next(u) * (_SIGMA[1] - _SIGMA[0]),
        solarize=next(u) < view.solarize_p,
    )


def _sizes(min_area: float, heights: Ints, widths: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    area = heights * widths * (min_area + u * (1 - min_area))
    aspect = np.exp((2 * v - 1) * _LOG_ASPECT)
    return np.round(np.sqrt(area / aspect)).astype(np.int64), np.round(np.sqrt(area * aspect)).astype(np.int64)


def _clamped_size(min_area: float, heights: Ints, widths: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    """BYOL's code: one draw, clamped to the image."""
    height, width = _sizes(min_area, heights, widths, u, v)
    return np.clip(height, 1, heights), np.clip(width, 1, widths)


def _retried_size(min_area: float, heights: Ints, widths: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    """torchvision's code: the first of ten draws that fits, else the whole image within the aspect limits."""
    height, width = (s.T for s in _sizes(min_area, heights, widths, u.T, v.T))
    fits = (height > 0) & (width > 0) & (height <= heights[:, None]) & (width <= widths[:, None])
    first = fits.argmax(1)
    rows = np.arange(len(heights))
    widest = exp(_LOG_ASPECT)
    return (
        np.where(fits.any(1), height[rows, first], np.minimum(heights, np.round(widths * widest))).astype(np.int64),
        np.where(fits.any(1), width[rows, first], np.minimum(widths, np.round(heights * widest))).astype(np.int64),
    )


def render(images: list[Tensor], drawn: Draw, views: Views, view: View) -> Tensor:
    """The view itself.

    Args:
        images: B tensors uint8 [H_i, W_i, 3] on the training device, of any sizes.
        drawn: their parameters.

    Returns:
        float32 [B, 3, size, size], normalised with ImageNet's mean and std, channels_last.
    """
    device = images[0].device
    image = _crop(images, drawn, views)
    image = image_ops.flip(image, torch.from_numpy(drawn.flip).to(device))
    operations = _jitter_operations(views.operations, view)
    for place in range(4):
        for kind, operation in enumerate(operations):
            chosen = drawn.jitter & (drawn.order[:, place] == kind)
            strengths = torch.from_numpy(drawn.strengths[:, kind].astype(np.float32)).to(device)
            image = _where(image, chosen, operation, strengths)
    image = _where(image, drawn.grayscale, image_ops.grayscale)
    image = _where(image, drawn.blur, _blur(views), torch.from_numpy(drawn.sigma).to(device))
    image = _where(image, drawn.solarize, image_ops.solarize)
    mean, std = (image.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    return image.clamp(0, 1).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def _crop(images: list[Tensor], drawn: Draw, views: Views) -> Tensor:
    """Crops together what has one size; the order of the batch stays."""
    device = images[0].device
    kernel = "bicubic" if views.operations == "byol" else "bilinear_antialias"
    out = torch.empty(len(images), 3, views.size, views.size, device=device)
    for shape in dict.fromkeys(i.shape for i in images):
        rows = [n for n, i in enumerate(images) if i.shape == shape]
        stacked = torch.stack([images[n] for n in rows]).permute(0, 3, 1, 2).float().div_(255)
        box = torch.from_numpy(drawn.box[rows]).to(device)
        out[rows] = image_ops.crop_resize(stacked, box, views.size, kernel)
    return out


def _jitter_operations(operations: str, view: View) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Brightness, contrast, saturation, hue as functions of (images, strength in [-1, 1])."""
    if operations == "byol":
        return [
            lambda x, s: image_ops.brightness(x, s * view.brightness),  # added, not multiplied
            lambda x, s: image_ops.contrast(x, 1 + s * view.contrast),
            lambda x, s: image_ops.saturation(x, 1 + s * view.saturation),
            lambda x, s: image_ops.hue(x, s * view.hue),
        ]
    return [
        lambda x, s: image_ops.tv_brightness(x, 1 + s * view.brightness),
        lambda x, s: image_ops.tv_contrast(x, 1 + s * view.contrast),
        lambda x, s: image_ops.tv_saturation(x, 1 + s * view.saturation),
        lambda x, s: image_ops.hue(x, s * view.hue),
    ]


def _blur(views: Views) -> Callable[[Tensor, Tensor], Tensor]:
    if views.operations == "byol":
        taps = 2 * (views.size // 10 // 2) + 1  # official ``augmentations.py``
        return lambda x, sigma: image_ops.blur(x, sigma, taps)
    # PIL's blur is wide enough for any sigma and extends the edge; +-3 sigma of the largest sigma holds 99.7 %
    taps = min(2 * int(3 * _SIGMA[1]) + 1, 2 * ((views.size - 1) // 2) + 1)
    return lambda x, sigma: image_ops.blur(x, sigma, taps, padding="edge")


def _where(
    image: Tensor, chosen: NDArray[np.bool_], operation: Callable[..., Tensor], parameter: Tensor | None = None
) -> Tensor:
    """``operation`` on the chosen samples only: no work is done for the others."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return image
    index = torch.from_numpy(rows).to(image.device)
    arguments = (image[index],) if parameter is None else (image[index], parameter[index])
    return image.index_copy(0, index, operation(*arguments))
