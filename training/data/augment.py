"""The views of a batch, made on the training device from parameters that are drawn per sample on the host.

Per view, all parameters reach the device in two small copies; nothing is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.data import augment_ops, rand_augment
from training.data.packed_batch import PackedImages
from training.recipes.config import View, Views
from zoo.numerics.counter_rng import uniforms
from zoo.transforms.random_crop import TF_TRIES, TRIES, central_offset, clamped_size, retried_size, tf_size

_CELLS = 1 << 21  # added to the stream of a view whose cells are changed by themselves
_SIGMA = (0.1, 2.0)  # blur radius in pixels, in both codes
_CPU_PIXELS = 1 << 18  # pixels processed at once: about what the caches hold
_GPU_PIXELS = 1 << 26  # some 1.5 GB of the GPU's memory
_KERNELS = {
    "byol": "bicubic",
    "simclr": "bicubic_tf1",
    "torchvision": "bilinear_antialias",
    "torchvision-bicubic": "bicubic_antialias",
}
MEAN = (0.485, 0.456, 0.406)  # ImageNet, in all codes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ViewParameters:
    """Parameters of one view of B samples."""

    box: Ints  # [B, 4] top, left, height, width in pixels
    flip: NDArray[np.bool_]  # [B], like all below without a shape
    jitter: NDArray[np.bool_]
    strengths: Floats  # [B, 4] brightness, contrast, saturation, hue; in [-1, 1]
    order: Ints  # [B, 4] permutation: index of the jitter operation that comes first, second, ...
    grayscale: NDArray[np.bool_]
    blur: NDArray[np.bool_]
    sigma: Floats  # blur radius in pixels
    solarize: NDArray[np.bool_]
    rand_augment: rand_augment.Drawn | None = None


def draw_parameters(
    view: View,
    operations: str,
    heights: Ints,
    widths: Ints,
    indices: Ints,
    *,
    seed: int,
    epoch: int | Ints,
    stream: int,
) -> ViewParameters:
    """Draw the parameters of one view for samples ``indices`` of the given sizes; a pure function of its arguments."""
    # Draw the numbers of all samples at once, so that each depends only on its own sample and epoch.
    tries = TF_TRIES if operations == "simclr" else TRIES
    u = iter(uniforms(seed, stream, epoch, indices, 2 * tries + 17).T)
    first, second = (np.stack([next(u) for _ in range(tries)], 1) for _ in range(2))
    # Choose the size of each crop by the rule of the original code.
    area, places = (view.min_area, view.max_area), 1
    fell_back = np.zeros(len(indices), bool)
    if operations == "byol":
        height, width = clamped_size(area, heights, widths, first[:, 0], second[:, 0])
    elif operations == "simclr":
        height, width = tf_size(area, heights, widths, first, second)
        places = 0  # TensorFlow never draws the last place, at the image's right or lower edge
    else:
        height, width, fell_back = retried_size(area, heights, widths, first, second)
    # Place each crop in its image.
    top = np.floor(next(u) * (heights - height + places)).astype(np.int64)
    left = np.floor(next(u) * (widths - width + places)).astype(np.int64)
    top = np.where(fell_back, central_offset(heights, height), top)
    left = np.where(fell_back, central_offset(widths, width), left)
    # Draw the flip and the colour changes, in a fixed order.
    return ViewParameters(
        box=np.stack([top, left, height, width], 1),
        flip=next(u) < view.flip_p,
        jitter=next(u) < view.jitter_p,
        strengths=np.stack([2 * next(u) - 1 for _ in range(4)], 1),
        order=np.argsort(np.stack([next(u) for _ in range(4)], 1), axis=1),
        grayscale=next(u) < view.grayscale_p,
        blur=next(u) < view.blur_p,
        sigma=_SIGMA[0] + next(u) * (_SIGMA[1] - _SIGMA[0]),
        solarize=next(u) < view.solarize_p,
        rand_augment=rand_augment.draw(view.rand_augment, indices, seed=seed, epoch=epoch, stream=stream)
        if view.rand_augment
        else None,
    )


def make_views(
    images: PackedImages, indices: Ints, views: Views, *, seed: int, epoch: int | Ints, device: torch.device
) -> list[Tensor]:
    """Return all views of a batch: first, second, then the small ones.

    A view is a pure function of its image, (seed, epoch, index), and its position among the views. On a CPU its bits do
    not depend on the rest of the batch.

    Args:
        images: B images, on the host or on ``device``.
        indices: [B] rows of the data set, from which the parameters are drawn.
        epoch: one epoch for all samples, or [B].

    Returns:
        For each view float32 [B, 3, size, size], normalised with ImageNet's mean and the std of ``views``,
        channels_last.
    """
    images = images.to(device)
    # List the views in the order that fixes their random streams.
    specified = [
        (views.first, views.size),
        (views.second, views.size),
        *[(views.small, views.small_size)] * views.small_count,
    ]
    made = []
    for stream, (view, size) in enumerate(specified, start=1):
        if view is not None:
            sizes = (images.heights, images.widths)
            parameters = draw_parameters(view, views.operations, *sizes, indices, seed=seed, epoch=epoch, stream=stream)
            if view.cells > 1:
                crop = apply_parameters(images, without_changes(parameters), views, view, size)
                made.append(_change_cells(crop, indices, views, view, seed=seed, epoch=epoch, stream=stream))
            else:
                made.append(apply_parameters(images, parameters, views, view, size))
    return made


def without_changes(drawn: ViewParameters) -> ViewParameters:
    """Return the crops alone: nothing is mirrored, and no colour changes."""
    names = ("flip", "jitter", "grayscale", "blur", "solarize")
    none: dict[str, Any] = {name: np.zeros(len(drawn.box), bool) for name in names}
    return replace(drawn, rand_augment=None, **none)


def _change_cells(
    crops: Tensor, indices: Ints, views: Views, view: View, *, seed: int, epoch: int | Ints, stream: int
) -> Tensor:
    """Mirror and colour each cell of normalised crops [B, 3, S, S] by itself; the crops are rounded to 8 bits first."""
    b, _, side, _ = crops.shape
    grid, cell = view.cells, side // view.cells
    # Cut the crops into images of their own: [B, rows, columns, cell, cell, 3].
    mean, std = (crops.new_tensor(values).view(3, 1, 1) for values in (MEAN, views.std))
    pixels = ((crops * std + mean) * 255).round().clamp(0, 255).byte()
    pixels = pixels.view(b, 3, grid, cell, grid, cell).permute(0, 2, 4, 3, 5, 1)
    sizes = np.full(b * grid**2, cell, np.int64)
    packed = PackedImages(pixels.reshape(-1, 3).contiguous(), sizes, sizes)
    # Each is a sample, cropped to itself.
    numbers = (indices[:, None] * grid**2 + np.arange(grid**2)).ravel()
    epochs = epoch if isinstance(epoch, int) else np.repeat(epoch, grid**2)
    whole = replace(view, min_area=1.0, max_area=1.0)
    kinds = (views.operations, sizes, sizes, numbers)
    drawn = draw_parameters(whole, *kinds, seed=seed, epoch=epochs, stream=stream + _CELLS)
    drawn = replace(drawn, box=np.tile(np.array([[0, 0, cell, cell]]), (len(sizes), 1)))
    changed = apply_parameters(packed, drawn, views, view, cell)
    # Put them back into their places.
    changed = changed.view(b, grid, grid, 3, cell, cell).permute(0, 3, 1, 4, 2, 5)
    return changed.reshape(b, 3, side, side).contiguous(memory_format=torch.channels_last)


def apply_parameters(images: PackedImages, drawn: ViewParameters, views: Views, view: View, size: int) -> Tensor:
    """Make one view of images that are on the training device.

    Returns:
        float32 [B, 3, size, size], normalised, channels_last.
    """
    device, operations = images.pixels.device, views.operations
    # Express the normalisation as one scale and one shift per channel.
    std = np.array(views.std).reshape(3, 1, 1)
    normalise = [(1 / std).astype(np.float32), (-np.array(MEAN).reshape(3, 1, 1) / std).astype(np.float32)]
    out = torch.empty(len(images), 3, size, size, device=device)
    colour = list(_colour_operations(drawn, operations, view, size))
    # Work on crops of similar size together, as each group is padded to its largest.
    for rows in _groups_of_like_size(drawn, size * size, _CPU_PIXELS if device.type == "cpu" else _GPU_PIXELS):
        # Parameters: all integers in one copy to the device, all floats in another.
        selected = [np.flatnonzero(step.selected[rows]) for step in colour]
        corners = images.starts[rows] + drawn.box[rows, 0] * images.widths[rows] + drawn.box[rows, 1]
        flip = drawn.flip[rows].astype(np.int64)
        integers = [rows, corners, images.widths[rows], drawn.box[rows, 2:], flip, *selected]
        row, corner, width, extent, mirrored, *indices = _copy_to_device(integers, device)
        values = [step.parameter[rows][s].astype(np.float32) for step, s in zip(colour, selected, strict=True)]
        scale, shift, *parameters = _copy_to_device([*normalise, *values], device)
        # Crop, resize and flip.
        boxes = _gather_boxes(images.pixels, corner, width, extent, *(int(drawn.box[rows, n].max()) for n in (2, 3)))
        image = augment_ops.crop_resize(boxes, F.pad(extent, (2, 0)), size, _KERNELS[operations], mirrored.bool())
        # Colour operations, each on the samples that it was drawn for.
        for step, index, parameter in zip(colour, indices, parameters, strict=True):
            if len(index) == len(rows):
                image = step.operation(image, parameter)
            elif len(index):
                image.index_copy_(0, index, step.operation(image.index_select(0, index), parameter))
        # Normalise the group and put its samples back into their rows.
        out.index_copy_(0, row, torch.addcmul(shift, image.clamp_(0, 1), scale))
    return out.contiguous(memory_format=torch.channels_last)


def _groups_of_like_size(drawn: ViewParameters, minimum: int, limit: int) -> Iterator[Ints]:
    """Yield the rows of a batch, sorted by box area, in groups of at most ``limit`` pixels (or of one image).

    All boxes of a group are padded to the largest one; a box counts as ``minimum`` pixels or more.
    """
    order = np.argsort(drawn.box[:, 2] * drawn.box[:, 3], kind="stable")
    start, height, width = 0, 0, 0
    for end, (h, w) in enumerate(drawn.box[order, 2:].tolist()):
        height, width = max(height, h), max(width, w)
        if end > start and (end + 1 - start) * max(height * width, minimum) > limit:
            yield order[start:end]
            start, height, width = end, h, w
    yield order[start:]


def _copy_to_device(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> list[Tensor]:
    """Copy arrays of one type to the device, together, without waiting for the copy."""
    flat = torch.from_numpy(np.concatenate([a.ravel() for a in arrays]))
    flat = (flat.pin_memory() if device.type == "cuda" else flat).to(device, non_blocking=True)
    parts = torch.split(flat, [a.size for a in arrays])
    return [part.view(a.shape) for part, a in zip(parts, arrays, strict=True)]


def _gather_boxes(pixels: Tensor, corner: Tensor, width: Tensor, extent: Tensor, height: int, breadth: int) -> Tensor:
    """Gather boxes [n, 3, height, breadth] in [0, 1] from packed pixels.

    Args:
        corner: [n], index of each box's first pixel.
        width: [n], width of each box's image.
        extent: [n, 2], height and width of each box; beyond them its edge is repeated.
    """
    down = torch.minimum(torch.arange(height, device=pixels.device), extent[:, :1] - 1)
    right = torch.minimum(torch.arange(breadth, device=pixels.device), extent[:, 1:] - 1)
    lines = corner[:, None] + down * width[:, None]
    index = (lines[:, :, None] + right[:, None]).view(-1)
    boxes = pixels.index_select(0, index).view(len(corner), height, breadth, 3)
    return boxes.float().div_(255).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _ColourOperation:
    """An operation on the ``selected`` samples (bool [B]), with one parameter per sample."""

    selected: NDArray[np.bool_]
    operation: Callable[[Tensor, Tensor], Tensor]
    parameter: Floats


def _colour_operations(drawn: ViewParameters, operations: str, view: View, size: int) -> Iterator[_ColourOperation]:
    jitter = _jitter_operations(operations, view)
    for position in range(4):
        for kind, operation in enumerate(jitter):
            selected = drawn.jitter & (drawn.order[:, position] == kind)
            yield _ColourOperation(selected, operation, drawn.strengths[:, kind])
    gray = _ColourOperation(drawn.grayscale, lambda x, _: augment_ops.grayscale(x), drawn.sigma)
    blur = _ColourOperation(drawn.blur, _blur(operations, size, reflected=view.rand_augment > 0), drawn.sigma)
    if (found := drawn.rand_augment) is None:
        yield from (gray, blur)
    else:  # InfoMin's order, PyContrast datasets/util.py:279-300
        some: NDArray[np.bool_] = np.any(found.operation >= 0, axis=1)
        sample = np.arange(len(drawn.blur), dtype=np.float64)
        several = _ColourOperation(some, lambda x, n: rand_augment.apply_drawn(x, found, n.long()), sample)
        yield from (blur, several, gray)
    yield _ColourOperation(drawn.solarize, lambda x, _: augment_ops.solarize(x), drawn.sigma)


def _jitter_operations(operations: str, view: View) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Return brightness, contrast, saturation, hue as functions of (images, strength in [-1, 1])."""
    # Follow the TensorFlow definitions for BYOL and SimCLR.
    if not operations.startswith("torchvision"):
        return [
            lambda x, s: augment_ops.brightness(x, s * view.brightness),  # added, not multiplied
            lambda x, s: augment_ops.contrast(x, 1 + s * view.contrast),
            lambda x, s: augment_ops.saturation(x, 1 + s * view.saturation),
            lambda x, s: augment_ops.hue(x, s * view.hue),
        ]
    # Follow the torchvision definitions for the other methods.
    return [
        lambda x, s: augment_ops.tv_brightness(x, 1 + s * view.brightness),
        lambda x, s: augment_ops.tv_contrast(x, 1 + s * view.contrast),
        lambda x, s: augment_ops.tv_saturation(x, 1 + s * view.saturation),
        lambda x, s: augment_ops.hue(x, s * view.hue),
    ]


def _blur(operations: str, size: int, *, reflected: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    if not operations.startswith("torchvision"):
        taps = 2 * (size // 10 // 2) + 1  # official ``augmentations.py`` and ``data_util.py``
        return lambda x, sigma: augment_ops.blur(x, sigma, taps)
    most = 2 * ((size - 1) // 2) + 1
    if reflected:  # InfoMin's views, PyContrast datasets/util.py: 23 taps for any size
        return lambda x, sigma: augment_ops.blur(x, sigma, min(23, most), padding="reflect")
    # PIL's blur extends the edge and has taps for any sigma; 3 times the largest sigma holds 99.7 % of the weight
    taps = min(2 * int(3 * _SIGMA[1]) + 1, most)
    return lambda x, sigma: augment_ops.blur(x, sigma, taps, padding="edge")
