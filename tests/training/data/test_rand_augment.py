"""RandAugment against the outputs of InfoMin's official code, and its draws against their probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.data import augment, augment_ops, rand_augment
from training.data.augment import MEAN, apply_parameters, draw_parameters, make_views, without_changes
from training.data.packed_batch import pack
from training.recipes.config import View, Views, from_json, override, to_json
from training.recipes.table import find

CPU = torch.device("cpu")
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


def test_every_operation_is_the_official_code_s_byte_for_byte(infomin_ops: Path) -> None:
    data = np.load(infomin_ops)
    image = Image.fromarray(data["image"])
    assert tuple(data["operations"]) == rand_augment.OPERATIONS
    assert tuple(data["fill"]) == rand_augment.FILL
    compared = 0
    for name in rand_augment.OPERATIONS:
        for n, magnitude in enumerate(data["magnitudes"].tolist()):
            for negative in (False, True)[: 1 + (name in GEOMETRIC)]:
                key = f"{name}_{n}" + "_negative" * negative
                if f"{key}_argument" in data:
                    found = rand_augment.argument(name, magnitude, negative=negative)
                    assert found == pytest.approx(float(data[f"{key}_argument"]), rel=1e-12)
                for bicubic in (False, True)[: 1 + (name in GEOMETRIC)]:
                    ours = rand_augment.operate(image, name, magnitude, negative=negative, bicubic=bicubic)
                    assert np.array_equal(np.asarray(ours), data[key + "_bicubic" * bicubic]), (key, bicubic)
                    compared += 1
    assert compared == len(data["magnitudes"]) * (10 + 5 * 4) > 0


def test_the_blur_is_the_official_code_s(infomin_ops: Path) -> None:
    """To one grey level: it is in float32 there, and cut to bytes."""
    data, numbers = np.load(infomin_ops), []
    blur = augment._blur("torchvision", 224, reflected=True)
    image = torch.tensor(data["image"]).movedim(-1, 0)[None] / 255
    while f"blur_{len(numbers)}" in data:
        n = len(numbers)
        ours = blur(image, torch.tensor([float(data[f"blur_{n}_sigma"])]))[0].movedim(0, -1) * 255
        numbers.append(float((ours.floor() - torch.tensor(data[f"blur_{n}"])).abs().max()))
    assert numbers
    assert all(number <= 1 for number in numbers)


def test_draws_have_their_probabilities_and_are_functions_of_the_sample() -> None:
    indices = np.arange(20_000)
    drawn = rand_augment.draw(2, indices, seed=0, epoch=1, stream=1)
    assert np.mean(drawn.operation >= 0) == pytest.approx(0.5, abs=0.01)
    shares = np.bincount(drawn.operation[drawn.operation >= 0], minlength=15) / (drawn.operation >= 0).sum()
    assert np.abs(shares - 1 / 15).max() < 0.01
    assert np.mean(drawn.magnitude == 10) == pytest.approx(0.5, abs=0.01)  # what is above 10 is cut
    below = 10 - drawn.magnitude[drawn.magnitude < 10]
    assert float(np.sqrt(np.mean(below**2))) == pytest.approx(0.5, abs=0.01)
    assert np.mean(drawn.negative) == pytest.approx(0.5, abs=0.01)
    assert np.mean(drawn.bicubic) == pytest.approx(0.5, abs=0.01)
    again = rand_augment.draw(2, indices[7:9], seed=0, epoch=1, stream=1)
    assert np.array_equal(again.magnitude, drawn.magnitude[7:9])
    assert not np.array_equal(rand_augment.draw(2, indices, seed=0, epoch=2, stream=1).operation, drawn.operation)


def photographs(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(count)]


def test_it_comes_between_blur_and_grayscale() -> None:
    view = View(jitter_p=0, blur_p=0.5, grayscale_p=0.5, rand_augment=2)
    views, count = Views(size=24, operations="torchvision", first=view, second=None), 12
    images = pack(photographs(count))
    (found,) = make_views(images, np.arange(count), views, seed=3, epoch=0, device=CPU)
    drawn = draw_parameters(
        view, "torchvision", images.heights, images.widths, np.arange(count), seed=3, epoch=0, stream=1
    )
    assert drawn.rand_augment is not None
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, views.std))
    crops = apply_parameters(images, replace(without_changes(drawn), flip=drawn.flip), views, view, 24) * std + mean
    taps = 2 * ((24 - 1) // 2) + 1
    changed = 0
    for n, crop in enumerate(crops.clamp(0, 1)):
        x = crop[None]
        if drawn.blur[n]:
            x = augment_ops.blur(
                x, torch.tensor([drawn.sigma[n]], dtype=torch.float32), min(23, taps), padding="reflect"
            )
        if (drawn.rand_augment.operation[n] >= 0).any():
            x = rand_augment.apply_drawn(x, drawn.rand_augment, torch.tensor([n]))
            changed += 1
        x = augment_ops.grayscale(x) if drawn.grayscale[n] else x
        assert (found[n] * std + mean - x[0]).abs().max() < 3e-2, n
    assert 3 < changed < count


def test_a_view_without_it_is_as_before_and_so_is_its_json() -> None:
    recipe = find("infomin_r50_in1k_200ep_norandaug")
    text = to_json(recipe)
    assert "rand_augment" not in str(text)
    assert "cells" not in str(text)
    new = find("infomin_r50_in1k_200ep")
    assert new.views.second == new.views.first
    assert new.views.first.rand_augment == 2
    assert from_json(to_json(new)) == new
    changed = override(new, ["views.first.rand_augment=0", "views.second.rand_augment=0"])
    assert replace(changed, name=recipe.name) == recipe


# ---------------------------------------------------------------- cells that are changed by themselves


def cells_of(view: torch.Tensor, grid: int) -> torch.Tensor:
    """[3, S, S] -> [grid, grid, 3, S / grid, S / grid]."""
    side = view.shape[1] // grid
    return view.reshape(3, grid, side, grid, side).permute(1, 3, 0, 2, 4)


def test_each_cell_is_mirrored_and_coloured_by_itself() -> None:
    plain = View(min_area=0.6, flip_p=0, jitter_p=0, grayscale_p=0, blur_p=0)
    count, images = 30, pack(photographs(30))
    made = {}
    for name, view in (
        ("plain", plain),
        ("mirrored", replace(plain, flip_p=0.5, cells=3)),
        ("gray", replace(plain, grayscale_p=0.5, cells=3)),
    ):
        views = Views(size=24, operations="torchvision", first=view, second=None)
        (made[name],) = make_views(images, np.arange(count), views, seed=0, epoch=0, device=CPU)
    kinds = {"mirrored": 0, "gray": 0}
    patterns = set()
    std = torch.tensor(Views().std).view(3, 1, 1)
    for n in range(count):
        whole, mirrored, gray = (cells_of(made[name][n], 3) for name in ("plain", "mirrored", "gray"))
        turned = []
        for row in range(3):
            for column in range(3):
                one, other = whole[row, column], mirrored[row, column]
                is_mirrored = bool(torch.allclose(other, one.flip(-1), atol=0.02))
                assert is_mirrored or torch.allclose(other, one, atol=0.02)
                turned.append(is_mirrored)
                kinds["mirrored"] += is_mirrored
                rgb = gray[row, column] * std + torch.tensor(MEAN).view(3, 1, 1)
                kinds["gray"] += bool((rgb[0] - rgb[1]).abs().max() < 1e-3)
        patterns.add(tuple(turned))
    assert len(patterns) > 20, "the cells of an image do not share their flips"
    for share in (value / (9 * count) for value in kinds.values()):
        assert 0.4 < share < 0.6
    views = Views(size=24, operations="torchvision", first=replace(plain, grayscale_p=0.5, cells=3), second=None)
    (part,) = make_views(pack(photographs(30)[4:6]), np.arange(4, 6), views, seed=0, epoch=0, device=CPU)
    assert torch.equal(part, made["gray"][4:6])


def test_pirl_s_own_recipe_has_cells_and_pycontrast_s_has_not() -> None:
    for name, cells in (("pirl_r50_in1k_800ep", 3), ("pirl_r50_in1k_200ep_pycontrast", 1)):
        small = find(name).views.small
        assert small is not None
        assert small.cells == cells
