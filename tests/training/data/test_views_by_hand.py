"""A batch's views against the same operations on one image at a time; the draws of a seed stay what they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data import augment, augment_ops
from training.data.augment import ViewParameters, apply_parameters, draw_parameters
from training.data.packed_batch import pack
from training.recipes.config import View, Views

KERNELS = {
    "byol": "bicubic", "simclr": "bicubic_tf1",
    "torchvision": "bilinear_antialias", "torchvision-bicubic": "bicubic_antialias",
}  # fmt: skip
TAPS = {  # official ``augmentations.py``: 2 (size // 10 // 2) + 1; torchvision's: 3 sigmas, no more than the image
    ("byol", 40): 5, ("byol", 8): 1, ("simclr", 40): 5, ("simclr", 8): 1,
    ("torchvision", 40): 13, ("torchvision", 8): 7, ("torchvision-bicubic", 40): 13, ("torchvision-bicubic", 8): 7,
}  # fmt: skip
HALF = View(
    brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1, jitter_p=0.7, grayscale_p=0.3, blur_p=0.5, solarize_p=0.4
)


def jittered(image: Tensor, kind: int, s: float, operations: str, view: View) -> Tensor:
    """One of brightness, contrast, saturation and hue at strength ``s`` in [-1, 1]."""
    torchvision = operations.startswith("torchvision")
    operation = (
        augment_ops.tv_brightness if torchvision else augment_ops.brightness,
        augment_ops.tv_contrast if torchvision else augment_ops.contrast,
        augment_ops.tv_saturation if torchvision else augment_ops.saturation,
        augment_ops.hue,
    )[kind]
    amount = s * (view.brightness, view.contrast, view.saturation, view.hue)[kind]
    added = kind == 3 or (kind == 0 and not torchvision)
    return operation(image, torch.tensor([amount if added else 1 + amount], dtype=torch.float32))


def by_hand(
    image: Tensor, drawn: ViewParameters, n: int, operations: str, views: Views, view: View, size: int
) -> Tensor:
    top, left, height, width = drawn.box[n].tolist()
    x = image[top : top + height, left : left + width].permute(2, 0, 1)[None].float() / 255
    x = augment_ops.crop_resize(x, torch.tensor([[0, 0, height, width]]), size, KERNELS[operations])
    x = x.flip(3) if drawn.flip[n] else x
    for kind in drawn.order[n] if drawn.jitter[n] else ():
        x = jittered(x, int(kind), float(drawn.strengths[n, kind]), operations, view)
    x = augment_ops.grayscale(x) if drawn.grayscale[n] else x
    sigma = torch.tensor([drawn.sigma[n]], dtype=torch.float32)
    padding = "edge" if operations.startswith("torchvision") else "zeros"
    x = augment_ops.blur(x, sigma, TAPS[operations, size], padding=padding) if drawn.blur[n] else x
    x = torch.where(x < 0.5, x, 1 - x) if drawn.solarize[n] else x
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), views.std))
    return ((x.clamp(0, 1) - mean) / std)[0]


@pytest.mark.parametrize("size", [40, 8])
@pytest.mark.parametrize("operations", KERNELS)
def test_a_batch_s_view_is_each_image_s_alone(operations: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(50, 60), (31, 90), (90, 31), (8, 8), (64, 64)] * 8
    images = [(torch.rand(h, w, 3, generator=generator) * 255).byte() for h, w in shapes]
    views = Views(operations=operations, red_std=0.25)
    heights, widths = np.array(shapes, np.int64).T
    drawn = draw_parameters(HALF, operations, heights, widths, np.arange(40), seed=0, epoch=3, stream=1)
    for chosen in (drawn.flip, drawn.jitter, drawn.grayscale, drawn.blur, drawn.solarize):
        assert 3 < chosen.sum() < 37
    monkeypatch.setattr(augment, "_CPU_PIXELS", 1 << 13)  # several groups
    found = apply_parameters(pack([image.numpy() for image in images]), drawn, views, HALF, size)
    assert found.shape == (40, 3, size, size)
    for n, image in enumerate(images):
        expected = by_hand(image, drawn, n, operations, views, HALF, size)
        torch.testing.assert_close(found[n], expected, rtol=0, atol=2e-5, msg=f"image {n}")


def draw(count: int, **changes: Any) -> ViewParameters:
    sizes = [np.full(count, 100, np.int64)] * 2
    options = {"operations": "byol", "seed": 0, "epoch": 0, "stream": 1, **changes}
    return draw_parameters(HALF, options.pop("operations"), *sizes, np.arange(count), **options)


def test_draws_fill_their_ranges() -> None:
    drawn = draw(20_000)
    assert drawn.sigma.min() < 0.1005
    assert drawn.sigma.max() > 1.9995
    assert abs(drawn.sigma.mean() - 1.05) < 0.02
    assert (drawn.strengths.min(0) < -0.998).all()
    assert (drawn.strengths.max(0) > 0.998).all()
    top, left, height, width = drawn.box.T
    for start, length in ((top, height), (left, width)):
        assert start.min() == 0
        assert (start + length).max() == 100
        free = length < 100
        assert abs((start[free] / (100 - length[free])).mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(np.stack([drawn.sigma, *drawn.strengths.T])) - np.eye(5)).max() < 0.05


@pytest.mark.parametrize(
    ("operations", "boxes", "orders", "flags", "sigma"),
    [
        (
            "byol",
            [[0, 9, 375, 351], [5, 0, 380, 375], [100, 0, 76, 17]],
            [[2, 3, 1, 0], [0, 2, 3, 1], [0, 1, 3, 2]],
            [[0, 0, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]],
            [1.4943, 1.016, 0.3887],
        ),
        (
            "simclr",
            [[96, 3, 257, 311], [21, 5, 289, 348], [0, 0, 333, 17]],
            [[0, 2, 1, 3], [2, 0, 3, 1], [2, 1, 3, 0]],
            [[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0]],
            [1.9022, 0.8474, 0.9414],
        ),
        (
            "torchvision",
            [[75, 13, 265, 293], [2, 2, 453, 373], [155, 0, 23, 17]],
            [[2, 3, 1, 0], [0, 2, 3, 1], [0, 1, 3, 2]],
            [[0, 0, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]],
            [1.4943, 1.016, 0.3887],
        ),
    ],
)
def test_a_seed_draws_what_it_always_drew(
    operations: str, boxes: list[list[int]], orders: list[list[int]], flags: list[list[int]], sigma: list[float]
) -> None:
    """A resumed run and a repeated one need the same draws. Images 0, 7 and the last of ImageNet, of three sizes."""
    heights, widths, indices = np.array([[375, 500, 333], [500, 375, 17], [0, 7, 1_281_166]])
    view = replace(View(), blur_p=0.5, solarize_p=0.5)
    drawn = draw_parameters(view, operations, heights, widths, indices, seed=3, epoch=2, stream=1)
    assert (drawn.box.tolist(), drawn.order.tolist()) == (boxes, orders)
    found = [drawn.flip, drawn.jitter, drawn.grayscale, drawn.blur, drawn.solarize]
    assert [each.astype(int).tolist() for each in found] == flags
    assert drawn.sigma.round(4).tolist() == sigma


def test_each_view_has_its_stream_from_one_on(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = []

    def recorded(*arguments: Any, stream: int, **named: Any) -> ViewParameters:
        streams.append((arguments[0].min_area, stream))
        return draw_parameters(*arguments, stream=stream, **named)

    monkeypatch.setattr(augment, "draw_parameters", recorded)
    images = pack([np.zeros((12, 9, 3), np.uint8)] * 2)
    views = Views(size=8, first=View(min_area=0.1), second=View(min_area=0.2), small=View(min_area=0.3), small_size=4)
    options = {"seed": 0, "epoch": 0, "device": torch.device("cpu")}
    made = augment.make_views(images, np.arange(2), replace(views, small_count=2), **options)
    assert [view.shape[2] for view in made] == [8, 8, 4, 4]
    assert streams == [(0.1, 1), (0.2, 2), (0.3, 3), (0.3, 4)]
    streams.clear()
    augment.make_views(images, np.arange(2), replace(views, second=None, small_count=1), **options)
    assert streams == [(0.1, 1), (0.3, 3)]  # a view that is left out keeps the others' streams
