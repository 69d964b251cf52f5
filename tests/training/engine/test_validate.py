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
from training.engine.validate import check_run, check_settings
from training.launch import launch, launch_sweep
from training.methods import build_method
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


UNFIT = [
    ("instdisc", "options.negatives=-1", "negatives=-1 is out of range"),
    ("instdisc", "options.bank_momentum=nan", "bank_momentum=nan is out of range"),
    ("instdisc", "options.loss=foo", "loss=foo is not one of nce, softmax"),
    ("cmc", "options.negatives=-3", "negatives=-3 is out of range"),
    ("cmc", "architecture=r18", "cmc needs two encoders"),
    ("pirl", "options.code=x", "code=x is not one of vissl, pycontrast"),
    ("pirl", "options.patch_weight=2", "patch_weight=2.0 is out of range"),
    ("pirl", "views.small_size=10", "too small for nine patches"),
    ("infomin", "options.patch_weight=nan", "patch_weight=nan is out of range"),
    ("infomin", "objective.symmetric=true", "one direction only"),
    ("infomin", "objective.queue=4", "cannot hold the 64 keys"),
    ("mocov2", "objective.queue=0", "cannot hold the 128 keys"),
    ("densecl", "options.dense_weight=-1", "dense_weight=-1.0 is out of range"),
    ("localagg", "options.clusters=0", "clusters=0 is out of range"),
    ("cpc", "options.layers=1000000", "layers=1000000 is out of range: it must be between 1 and 50"),
    ("simclr", "heads.projector_layers=1000000", "projector_layers=1000000 is out of range: it must be between 1 and"),
    ("localagg", "objective.temperature=0.01", "temperature=0.01 is too small for localagg"),
    ("cpc", "options.last_step=9", "no rows 2 to 9 rows ahead"),
    ("cpc", "options.clip=nan", "clip=nan is out of range"),
    ("cpc", "architecture=r18", "cpc needs an encoder without BN"),
    ("byol_gn", "options.groups=3", "no multiple of options.groups=3"),
    ("barlowtwins", "options.lambd=nan", "lambd=nan is out of range"),
    ("barlowtwins", "options.lambd=-1", "lambd=-1.0 is out of range"),
    ("vicreg", "options.variance=nan", "variance=nan is out of range"),
    ("vicreg", "options.covariance=inf", "covariance=inf is out of range"),
    ("swav", "objective.epsilon=0.001", "epsilon=0.001 is too small for swav"),
    ("byol", "views.first.min_area=0.5 views.first.max_area=0.4", "is above its max_area"),
]


@pytest.mark.parametrize(("method", "sets", "message"), UNFIT)
def test_settings_that_fit_no_data_are_refused_before_any_are_opened(
    method: str, sets: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        launch(
            f"{method}_r10_cifar10_3ep",
            str(tmp_path),  # which has no image
            tmp_path / "run",
            overrides=sets.split(),
            device="cpu",
            resume=False,
        )
    assert "\n" not in str(caught.value)


def test_a_sweep_s_candidates_are_checked_before_its_data_are_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"variance=-1\.0 is out of range"):
        launch_sweep(
            "vicreg_r10_cifar10_3ep",
            str(tmp_path),
            tmp_path / "sweep",
            over=["options.variance=25,-1"],
            overrides=[],
            halving=None,
            images=None,
            in_memory=False,
            device="cpu",
            report=print,
        )


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("instdisc", {"negatives": 12.5}, "negatives=12.5 is out of range: it must be 0 or more, a whole number"),
        ("localagg", {"clusters": 3.5}, "clusters=3.5 is out of range"),
        ("cpc", {"layers": 1.5}, "layers=1.5 is out of range"),
        ("vicreg", {"variance": "much"}, "variance=much is no number"),
        ("barlowtwins", {}, "barlowtwins needs the option 'lambd'"),
    ],
)
def test_options_given_in_python_are_checked_too(method: str, options: dict[str, Any], message: str) -> None:
    recipe = tiny(method)
    with pytest.raises(UserError, match=message):
        check_settings(replace(recipe, options={**recipe.options, **options} if options else {}))


@pytest.mark.parametrize("method", METHODS)
def test_an_option_that_no_method_has_changes_nothing(method: str) -> None:
    """Such as one that an older version of a method of the user's had."""
    recipe = tiny(method)
    build_method(replace(recipe, options={**recipe.options, "other": 1}), 44)


@pytest.mark.parametrize("device", ["cpux", "CPU", "mps", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(device: str, photos: Dataset) -> None:
    with pytest.raises(UserError, match=r"give cpu, cuda or cuda:1|no CUDA device here|no cuda:99 here"):
        check_run(tiny("byol"), photos, device)


def test_too_little_memory_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^out of memory: --set accumulate=2"), explain_out_of_memory():
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="shape"), explain_out_of_memory():
        torch.ones(2).view(3)
