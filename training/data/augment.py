"""The views of a batch, made on the training device from parameters drawn for each sample on the host.

Host and device meet once per view: all parameters travel in two small copies, and nothing is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.data import augment_ops
from training.data.packed_batch import Packed
from training.recipes.config import View, Views
from zoo.numerics.counter_rng import uniforms
from zoo.transforms.random_crop import TRIES, clamped_size, retried_size

_SIGMA = (0.1, 2.0)  # both codes, in pixels
_PIXELS_AT_ONCE = {"cpu": 1 << 18}  # about what caches hold; elsewhere, some 1.5 GB of a GPU's memory
_MOST_PIXELS_AT_ONCE = 1 << 26
MEAN = (0.485, 0.456, 0.406)  # ImageNet, all codes

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
    epoch: int | Ints,
    stream: int,
) -> Draw:
    """The parameters of samples ``indices`` (with their sizes) in ``epoch``; a pure function of its arguments."""
    u = iter(uniforms(seed, stream, epoch, indices, 2 * TRIES + 17).T)
    areas, aspects = (np.stack([next(u) for _ in range(TRIES)], 1) for _ in range(2))
    if operations == "byol":
        size = clamped_size((view.min_area, view.max_area), heights, widths, areas[:, 0], aspects[:, 0])
    else:
        size = retried_size((view.min_area, view.max_area), heights, widths, areas, aspects)
    height, width = size
    top = np.floor(next(u) * (heights - height + 1)).astype(np.int64)
    left = np.floor(next(u) * (widths - width + 1)).astype(np.int64)
    return Draw(
        box=np.stack([top, left, height, width], 1),
        flip=next(u) < view.flip_p,
        jitter=next(u) < view.jitter_p,
        strengths=np.stack([2 * next(u) - 1 for _ in range(4)], 1),
        order=np.argsort(np.stack([next(u) for _ in range(4)], 1), axis=1),
        grayscale=next(u) < view.grayscale_p,
        blur=next(u) < view.blur_p,
        sigma=_SIGMA[0] + next(u) * (_SIGMA[1] - _SIGMA[0]),
        solarize=next(u) < view.solarize_p,
    )


def make_views(
    images: Packed, indices: Ints, views: Views, *, seed: int, epoch: int | Ints, device: torch.device
) -> list[Tensor]:
    """All views of a batch: first, second, then the small ones.

    A view is a pure function of its image and of (seed, epoch, index, its place among the views). On a CPU it has the
    same bits whatever else is in the batch.

    Args:
        images: B images, on the host or on ``device``.
        indices: [B] rows of the data set, from which the parameters are drawn.
        epoch: of all, or [B] of each.

    Returns:
        float32 [B, 3, size, size] each, normalised with ImageNet's mean and the std of ``views``, channels_last.
    """
    images = images.to(device)
    wanted = [
        (views.first, views.size),
        (views.second, views.size),
        *[(views.small, views.small_size)] * views.small_count,
    ]
    made = []
    for stream, (view, size) in enumerate(wanted, start=1):
        if view is not None:
            sizes = (images.heights, images.widths)
            drawn = draw(view, views.operations, *sizes, indices, seed=seed, epoch=epoch, stream=stream)
            made.append(render(images, drawn, views, view, size))
    return made


def render(images: Packed, drawn: Draw, views: Views, view: View, size: int) -> Tensor:
    """One of ``views`` of ``images``, which lie on the training device.

    Returns:
        float32 [B, 3, size, size], normalised, channels_last.
    """
    device, operations = images.pixels.device, views.operations
    std = np.array(views.std).reshape(3, 1, 1)
    normalise = [(1 / std).astype(np.float32), (-np.array(MEAN).reshape(3, 1, 1) / std).astype(np.float32)]
    out = torch.empty(len(images), 3, size, size, device=device)
    steps = list(_colour_steps(drawn, operations, view, size))
    kernel = "bicubic" if operations == "byol" else "bilinear_antialias"
    for rows in _parts(drawn, size * size, _PIXELS_AT_ONCE.get(device.type, _MOST_PIXELS_AT_ONCE)):
        chosen = [np.flatnonzero(step.chosen[rows]) for step in steps]
        corners = images.starts[rows] + drawn.box[rows, 0] * images.widths[rows] + drawn.box[rows, 1]
        whole = [rows, corners, images.widths[rows], drawn.box[rows, 2:], drawn.flip[rows].astype(np.int64), *chosen]
        place, corner, width, extent, mirrored, *indices = _send(whole, device)
        values = [s.parameter[rows][c].astype(np.float32) for s, c in zip(steps, chosen, strict=True)]
        scale, shift, *parameters = _send([*normalise, *values], device)
        boxes = _gather(images.pixels, corner, width, extent, *(int(drawn.box[rows, n].max()) for n in (2, 3)))
        image = augment_ops.crop_resize(boxes, F.pad(extent, (2, 0)), size, kernel, mirrored.bool())
        for step, index, parameter in zip(steps, indices, parameters, strict=True):
            if len(index) == len(rows):
                image = step.operation(image, parameter)
            elif len(index):  # no work is done for the others
                image.index_copy_(0, index, step.operation(image.index_select(0, index), parameter))
        out.index_copy_(0, place, torch.addcmul(shift, image.clamp_(0, 1), scale))
    return out.contiguous(memory_format=torch.channels_last)


def _parts(drawn: Draw, least: int, limit: int) -> Iterator[Ints]:
    """The rows of a batch, boxes of like size together, in parts of at most ``limit`` pixels (or one image)."""
    order = np.argsort(drawn.box[:, 2] * drawn.box[:, 3], kind="stable")
    start, height, width = 0, 0, 0
    for end, (h, w) in enumerate(drawn.box[order, 2:].tolist()):
        height, width = max(height, h), max(width, w)
        if end > start and (end + 1 - start) * max(height * width, least) > limit:
            yield order[start:end]
            start, height, width = end, h, w
    yield order[start:]


def _send(arrays: list[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Arrays of one kind, all in one copy that the host does not wait for."""
    flat = torch.from_numpy(np.concatenate([a.ravel() for a in arrays]))
    flat = (flat.pin_memory() if device.type == "cuda" else flat).to(device, non_blocking=True)
    parts = torch.split(flat, [a.size for a in arrays])
    return [part.view(a.shape) for part, a in zip(parts, arrays, strict=True)]


def _gather(pixels: Tensor, corner: Tensor, width: Tensor, extent: Tensor, height: int, breadth: int) -> Tensor:
    """Boxes [n, 3, height, breadth] in [0, 1] of packed pixels; beyond its ``extent`` [n, 2] a box repeats its edge."""
    down = torch.minimum(torch.arange(height, device=pixels.device), extent[:, :1] - 1)
    right = torch.minimum(torch.arange(breadth, device=pixels.device), extent[:, 1:] - 1)
    lines = corner[:, None] + down * width[:, None]
    index = (lines[:, :, None] + right[:, None]).view(-1)
    boxes = pixels.index_select(0, index).view(len(corner), height, breadth, 3)
    return boxes.float().div_(255).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Step:
    """An operation on the ``chosen`` samples (bool [B]) with a parameter each."""

    chosen: NDArray[np.bool_]
    operation: Callable[[Tensor, Tensor], Tensor]
    parameter: Floats


def _colour_steps(drawn: Draw, operations: str, view: View, size: int) -> Iterator[_Step]:
    jitter = _jitter_operations(operations, view)
    for place in range(4):
        for kind, operation in enumerate(jitter):
            yield _Step(drawn.jitter & (drawn.order[:, place] == kind), operation, drawn.strengths[:, kind])
    yield _Step(drawn.grayscale, lambda x, _: augment_ops.grayscale(x), drawn.sigma)
    yield _Step(drawn.blur, _blur(operations, size), drawn.sigma)
    yield _Step(drawn.solarize, lambda x, _: augment_ops.solarize(x), drawn.sigma)


def _jitter_operations(operations: str, view: View) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Brightness, contrast, saturation, hue as functions of (images, strength in [-1, 1])."""
    if operations == "byol":
        return [
            lambda x, s: augment_ops.brightness(x, s * view.brightness),  # added, not multiplied
            lambda x, s: augment_ops.contrast(x, 1 + s * view.contrast),
            lambda x, s: augment_ops.saturation(x, 1 + s * view.saturation),
            lambda x, s: augment_ops.hue(x, s * view.hue),
        ]
    return [
        lambda x, s: augment_ops.tv_brightness(x, 1 + s * view.brightness),
        lambda x, s: augment_ops.tv_contrast(x, 1 + s * view.contrast),
        lambda x, s: augment_ops.tv_saturation(x, 1 + s * view.saturation),
        lambda x, s: augment_ops.hue(x, s * view.hue),
    ]


def _blur(operations: str, size: int) -> Callable[[Tensor, Tensor], Tensor]:
    if operations == "byol":
        taps = 2 * (size // 10 // 2) + 1  # official ``augmentations.py``
        return lambda x, sigma: augment_ops.blur(x, sigma, taps)
    # PIL's blur is wide enough for any sigma and extends the edge; +-3 sigma of the largest sigma holds 99.7 %
    taps = min(2 * int(3 * _SIGMA[1]) + 1, 2 * ((size - 1) // 2) + 1)
    return lambda x, sigma: augment_ops.blur(x, sigma, taps, padding="edge")
