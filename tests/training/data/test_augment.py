"""Views: the same for a sample wherever it stands, and what the papers' codes would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import unpacked
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from training.data import augment_ops
from training.data.augment import MEAN, apply_parameters, draw_parameters, make_views
from training.data.packed_batch import pack
from training.recipes import table
from training.recipes.config import View, Views
from zoo.transforms.tf_bicubic import TF_BICUBIC

QUIET = View(jitter_p=0, grayscale_p=0, blur_p=0, solarize_p=0)


def photographs(count: int, height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return list((smooth * 255).byte().permute(0, 2, 3, 1))


def make(images: list[Tensor], indices: list[int], views: Views, view: View, *, epoch: int = 0) -> Tensor:
    sizes = [np.array([i.shape[d] for i in images], np.int64) for d in (0, 1)]
    drawn = draw_parameters(view, views.operations, *sizes, np.array(indices, np.int64), seed=0, epoch=epoch, stream=1)
    return apply_parameters(pack([i.numpy() for i in images]), drawn, views, view, views.size)


@pytest.mark.parametrize(
    "recipe", ["byol_r50_in1k_300ep", "simsiam_r50_in1k_100ep", "simclr_r50_in1k_100ep", "byol_r18_tin32"]
)
def test_a_view_depends_on_its_sample_alone(recipe: str) -> None:
    """Whatever else is in the batch, in whatever order, of whatever sizes."""
    views = replace(table.find(recipe).views, size=32)
    images = photographs(6, 40, 50) + photographs(4, 64, 64)
    together = make(images, list(range(10)), views, views.second)
    order = [7, 2, 9, 0]
    few = make([images[n] for n in order], order, views, views.second)
    assert torch.equal(few, together[order])
    assert not torch.allclose(make(images, list(range(10)), views, views.second, epoch=1), together)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    operations=st.sampled_from(["byol", "simclr", "torchvision", "torchvision-bicubic"]),
)
@settings(max_examples=40, deadline=None)
def test_boxes_lie_in_the_image_and_views_are_finite(height: int, width: int, operations: str) -> None:
    sizes = [np.full(16, s, np.int64) for s in (height, width)]
    drawn = draw_parameters(View(), operations, *sizes, np.arange(16), seed=1, epoch=0, stream=1)
    top, left, h, w = drawn.box.T
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert ((top >= 0) & (top + h <= height)).all()
    assert ((left >= 0) & (left + w <= width)).all()
    image = apply_parameters(
        pack([i.numpy() for i in photographs(16, height, width)]), drawn, Views(operations=operations), View(), 12
    )
    assert image.shape == (16, 3, 12, 12)
    assert image.isfinite().all()


def test_probabilities_and_ranges_are_the_recipe_s() -> None:
    n = 20_000
    sizes = [np.full(n, 100, np.int64)] * 2
    drawn = draw_parameters(View(blur_p=0.1, solarize_p=0.2), "byol", *sizes, np.arange(n), seed=0, epoch=0, stream=2)
    for chosen, p in ((drawn.flip, 0.5), (drawn.jitter, 0.8), (drawn.grayscale, 0.2), (drawn.blur, 0.1)):
        assert abs(chosen.mean() - p) < 0.015
    assert abs(drawn.solarize.mean() - 0.2) < 0.015
    assert drawn.sigma.min() >= 0.1
    assert drawn.sigma.max() <= 2
    assert (np.bincount(drawn.order[:, 0], minlength=4) > n / 4 * 0.93).all()
    area = drawn.box[:, 2] * drawn.box[:, 3] / 1e4
    assert 0.07 < area.min() < 0.09
    assert abs(np.median(area) - 0.54) < 0.03  # uniform in .08 .. 1, a little less at the clamped end


def test_the_whole_image_at_its_size_comes_back() -> None:
    images = photographs(3, 24, 24)
    box = torch.tensor([[0, 0, 24, 24]] * 3)
    x = torch.stack(images).permute(0, 3, 1, 2).float() / 255
    for kernel in ("bicubic", "bicubic_tf1", "bilinear_antialias", "bicubic_antialias"):
        torch.testing.assert_close(augment_ops.crop_resize(x, box, 24, kernel), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [7, 20, 33, 64])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_crops_are_pil_s(kernel: str, size: int) -> None:
    image = photographs(1, 50, 60)[0]
    box = (5, 9, 40, 31)  # top, left, height, width
    x = image.permute(2, 0, 1)[None].float() / 255
    ours = augment_ops.crop_resize(x, torch.tensor([box]), size, f"{kernel}_antialias")
    top, left, height, width = box
    cropped = Image.fromarray(image.numpy()).crop((left, top, left + width, top + height))
    theirs = torch.from_numpy(np.array(cropped.resize((size, size), Image.Resampling[kernel.upper()])))
    # PIL rounds to 8 bit after each pass, and cuts what overshoots
    assert (ours[0].permute(1, 2, 0) * 255 - theirs).abs().max() < {"bilinear": 1.01, "bicubic": 1.5}[kernel]


@pytest.mark.parametrize("size", [7, 20, 33, 64])
@pytest.mark.parametrize(("kernel", "code"), [("bicubic_tf1", "simclr"), ("bicubic", "byol")])
def test_bicubic_crops_are_tensorflow_s(kernel: str, code: str, size: int) -> None:
    """``zoo.transforms.tf_bicubic`` is held against TensorFlow itself."""
    image = photographs(1, 50, 60)[0]
    top, left, height, width = box = (5, 9, 40, 31)
    x = image.permute(2, 0, 1)[None].float() / 255
    ours = augment_ops.crop_resize(x, torch.tensor([box]), size, kernel)
    theirs = TF_BICUBIC[code].float_pixels(
        Image.fromarray(image.numpy()), (left, top, left + width, top + height), size
    )
    # training's kernel of TF 2 does not round a tap's distance to 1/1024 of a pixel
    limit = {"bicubic_tf1": 1e-4, "bicubic": 0.1}[kernel]
    assert np.abs(ours[0].permute(1, 2, 0).numpy() * 255 - theirs).max() < limit
    mirrored = augment_ops.crop_resize(x, torch.tensor([box]), size, kernel, torch.tensor([True]))
    assert torch.equal(mirrored, ours.flip(3))


def drawn_boxes(operations: str, height: int, width: int, count: int) -> np.ndarray:
    sizes = [np.full(count, s, np.int64) for s in (height, width)]
    return draw_parameters(View(), operations, *sizes, np.arange(count), seed=0, epoch=0, stream=1).box


@pytest.mark.parametrize(("operations", "mean", "least"), [("simclr", 0.388, 0.1), ("byol", 0.519, 0.079)])
def test_areas_of_crops_of_a_photograph(operations: str, mean: float, least: float) -> None:
    """TensorFlow's kernel draws aspect and height uniformly; its crops are smaller than BYOL's clamped ones."""
    box = drawn_boxes(operations, 375, 500, 50_000)
    area = box[:, 2] * box[:, 3] / (375 * 500)
    assert abs(area.mean() - mean) < 0.005
    assert least <= area.min() < least + 0.005


def test_a_crop_that_never_fits_is_central_or_the_whole_image() -> None:
    """torchvision takes the middle of a strip, TensorFlow's kernel all of it; BYOL's clamped crop is anywhere."""
    box = drawn_boxes("torchvision", 40, 900, 100)
    np.testing.assert_array_equal(box, [[0, 423, 40, 53]] * 100)
    np.testing.assert_array_equal(drawn_boxes("torchvision", 900, 40, 100), [[423, 0, 53, 40]] * 100)
    np.testing.assert_array_equal(drawn_boxes("simclr", 40, 900, 100), [[0, 0, 40, 900]] * 100)
    assert len(np.unique(drawn_boxes("byol", 40, 900, 100)[:, 1])) > 50
    assert len(np.unique(drawn_boxes("torchvision", 400, 500, 100)[:, 1])) > 50


def test_torchvision_operations_are_torchvision_s() -> None:
    x = torch.stack(photographs(4, 30, 40)).permute(0, 3, 1, 2).float() / 255
    factor = torch.tensor([0.6, 0.9, 1.1, 1.4])
    for ours, theirs in (
        (augment_ops.tv_brightness, tv.adjust_brightness),
        (augment_ops.tv_contrast, tv.adjust_contrast),
        (augment_ops.tv_saturation, tv.adjust_saturation),
    ):
        expected = torch.cat([theirs(x[n : n + 1], float(factor[n])) for n in range(4)])
        torch.testing.assert_close(
            ours(x, factor), expected, rtol=0, atol=2e-4
        )  # their luma has 4 digits too, in float
    shift = torch.tensor([-0.1, 0.0, 0.05, 0.1])
    expected = torch.cat([tv.adjust_hue(x[n : n + 1], float(shift[n])) for n in range(4)])
    torch.testing.assert_close(augment_ops.hue(x, shift), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recipe", ["byol_r50_in1k_300ep", "simsiam_r50_in1k_100ep"])
def test_views_are_the_same_on_one_rank_or_eight(recipe: str) -> None:
    """Also the small crops, and each view draws its own parameters."""
    views = replace(table.find(recipe).views, size=32, small=View(min_area=0.05), small_size=16, small_count=2)
    images, indices = [i.numpy() for i in photographs(8, 40, 50)], np.arange(100, 108)

    def made(rows: slice) -> list[Tensor]:
        cpu = torch.device("cpu")
        return make_views(pack(images[rows]), indices[rows], views, seed=3, epoch=2, device=cpu)

    whole, ranks = made(slice(0, 8)), [made(slice(n, n + 1)) for n in range(8)]
    assert [v.shape[-1] for v in whole] == [32, 32, 16, 16]
    for number, view in enumerate(whole):
        assert torch.equal(view, torch.cat([rank[number] for rank in ranks]))
    assert not torch.equal(whole[2], whole[3])


def test_packed_images_come_apart_again() -> None:
    images = photographs(3, 5, 7) + photographs(2, 9, 4)
    packed = pack([i.numpy() for i in images])
    for part in (slice(0, 5), slice(1, 4), slice(2, 2), slice(4, 9)):
        assert all(map(torch.equal, unpacked(packed.part(part)), images[part]))
        assert len(packed.part(part)) == len(images[part])


@pytest.mark.parametrize("recipe", ["byol_r50_in1k_300ep", "swav_r50_in1k_200ep"])
def test_without_operations_a_view_is_the_normalised_crop(recipe: str) -> None:
    images = photographs(5, 32, 32)
    views = replace(table.find(recipe).views, size=32, first=QUIET)
    assert views.std[0] == (0.228 if "swav" in recipe else 0.229)
    whole = View(min_area=1.0, jitter_p=0, grayscale_p=0, blur_p=0)
    view = make(images, list(range(5)), views, whole)
    back = view * torch.tensor(views.std)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert back.min() >= -1e-6
    assert back.max() <= 1 + 1e-6
    assert view.is_contiguous(memory_format=torch.channels_last)
