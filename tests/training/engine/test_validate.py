"""What of a recipe does not fit together is refused in one line, before a folder is made; what fits passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import METHODS, tiny

from training.engine.loop import train
from training.engine.oom import explain_out_of_memory
from training.engine.validate import check_run
from training.recipes.config import Objective, View, override
from training.recipes.table import RECIPES, find
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_own_recipe_passes(method: str, photos: Dataset) -> None:
    check_run(tiny(method), photos, "cpu")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_but_for_the_number_of_images(name: str, photos: Dataset) -> None:
    recipe = override(find(name), ["heads.classes=2"])
    if recipe.bn_group_images:  # one rank takes the images of a BN group at a time
        recipe = replace(recipe, accumulate=recipe.optim.batch_size // recipe.bn_group_images)
    many = replace(photos, _length=100_000)
    check_run(recipe, many, "cpu")


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("byol", {"optim": {"batch_size": 1}}, "a micro-batch of one image has no BN statistics"),
        ("byol", {"accumulate": 8}, "a micro-batch of one image"),
        ("byol", {"accumulate": 3}, "cannot be split evenly over 1 ranks x 3 micro-batches"),
        ("byol", {"optim": {"batch_size": 1000}}, "has 46 images, fewer than a batch of 1000: add images or"),
        ("byol", {"optim": {"lr": float("nan")}}, "lr=nan is out of range"),
        ("byol", {"architecture": "vit"}, "unknown architecture 'vit'"),
        ("byol", {"project_first": True, "architecture": "r50"}, "project_first is for r18, not for r50"),
        ("swav", {"bn_group_images": 6}, "bn_group_images=6 takes groups of 0.75 of the 1 ranks"),
        ("mocov2", {"objective": Objective(queue=7)}, "queue=7 cannot hold the 8 keys of one step"),
        ("mocov2", {"objective": Objective(queue=8, symmetric=True)}, "the 16 keys of one step"),
        ("mocov2", {"objective": Objective(queue=8, bn_parts=3)}, "cannot be split into 3 equal parts"),
        ("mocov2", {"objective": Objective(queue=8, bn_parts=8)}, "8 equal parts of 2 or more"),
        ("supervised", {"views": find("byol_r18_tin32").views}, "supervised takes 1 views, but .* makes 2"),
        ("simclr", {"views": find("supervised_r18_cifar10_200ep").views}, "simclr takes 2 views, but .* makes 1"),
        ("byol", {"views": find("swav_r50_in1k_100ep").views}, "byol takes 2 views, but .* makes 8"),
        ("byol", {"views": replace(find("byol_r18_tin32").views, first=View(max_area=0.01))}, "above its max_area"),
        (
            "byol",
            {"views": replace(find("byol_r18_tin32").views, first=View(cells=5))},
            "cells=5 does not divide the view",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    method: str, changes: dict[str, Any], message: str, photos: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(tiny(method, **changes), photos, tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["cpux", "CPU", "mps", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(device: str, photos: Dataset) -> None:
    with pytest.raises(UserError, match=r"give cpu, cuda or cuda:1|no CUDA device here|no cuda:99 here"):
        check_run(tiny("byol"), photos, device)


def test_too_little_memory_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^out of memory: --set accumulate=2"), explain_out_of_memory():
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="shape"), explain_out_of_memory():
        torch.ones(2).view(3)
