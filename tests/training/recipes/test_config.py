"""Recipes are complete, overrides are checked."""

from __future__ import annotations

import json
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest

from training.messages import RecipeFilters
from training.methods import build_method
from training.methods.find import METHODS
from training.recipes import table
from training.recipes.config import check_ranges, from_json, override, to_json
from training.recipes.table import RECIPES
from zoo.errors import UserError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_name_keeps_its_ranges_and_survives_json(name: str) -> None:
    recipe = table.find(name)
    check_ranges(recipe)
    assert recipe.name == name
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe


def test_published_values() -> None:
    """reference: BYOL section 3.3 and app. G, the official presets; SimSiam section 3."""
    byol = table.find("byol_r50_in1k_1000ep")
    assert (byol.optim.lr, byol.optim.weight_decay, byol.optim.tau) == (0.2, 1.5e-6, 0.996)
    assert (byol.optim.batch_size, byol.optim.warmup_epochs, byol.heads.hidden, byol.heads.out) == (4096, 10, 4096, 256)
    assert not byol.zero_init_residual
    simsiam = table.find("simsiam_r50_in1k_100ep")
    assert (simsiam.optim.lr, simsiam.optim.weight_decay, simsiam.optim.batch_size) == (0.05, 1e-4, 512)
    assert simsiam.optim.fixed_predictor_lr
    assert simsiam.zero_init_residual


def test_simclr_is_version_1_s() -> None:
    """Paper section 2.2 and the v1 code; weight decay 1e-4 is SimCLR v2's."""
    simclr = table.find("simclr_r50_in1k_1000ep")
    assert (simclr.optim.lr, simclr.optim.weight_decay, simclr.objective.temperature) == (0.3, 1e-6, 0.1)
    assert (simclr.heads.projector_layers, simclr.views.operations, simclr.padding) == (2, "simclr", "same-pool")
    assert simclr.zero_init_residual
    assert simclr.initialiser == "tensorflow"


def test_byol_has_the_official_code_s_network() -> None:
    for name, first in (("byol_r18_in1k_300ep", True), ("byol_r50_in1k_1000ep_b512", False)):
        recipe = table.find(name)
        assert (recipe.padding, recipe.initialiser, recipe.project_first) == ("same", "haiku", first)
    for name in ("byol_r18_tin32", "simclr_r18_tin32", "byol_r18_cifar10_200ep", "byol_r10_cifar10_3ep"):
        recipe = table.find(name)
        assert (recipe.padding, recipe.initialiser, recipe.project_first) == ("symmetric", "timm", False)


@pytest.mark.parametrize(
    ("name", "score", "details"),
    [
        ("byol_r50_in1k_100ep", "66.5", {"optim.lr": 0.45, "optim.weight_decay": 1e-6, "optim.tau": 0.99}),
        ("byol_r50_in1k_200ep", "70.6", {"optim.lr": 0.3, "optim.weight_decay": 1e-6, "optim.tau": 0.99}),
        ("byol_r50_in1k_400ep", "73.2", {"optim.lr": 0.3, "optim.weight_decay": 1e-6, "optim.tau": 0.99}),
        ("byol_r50_in1k_800ep", "74.3", {"optim.lr": 0.2, "optim.weight_decay": 1.5e-6, "optim.tau": 0.996}),
        ("simsiam_r50_in1k_200ep_b256", "70.0", {"optim.batch_size": 256, "optim.lr": 0.05}),
        ("mocov2_r50_in1k_100ep_symmetric", "67.4", {"objective.symmetric": True, "objective.queue": 65_536}),
        ("mocov2_r50_in1k_400ep_symmetric", "71.0", {"objective.symmetric": True, "optim.epochs": 400}),
        ("simclr_r50_in1k_400ep_3layer", "69.8", {"heads.projector_layers": 3, "optim.epochs": 400}),
        ("swav_r50_in1k_800ep_2x224_3layer", "71.8", {"heads.mlp_layers": 3, "views.small_count": 0}),
    ],
)
def test_reproductions_of_simsiam_table_4(name: str, score: str, details: dict[str, object]) -> None:
    """[S] table 4, app. C and footnote 6."""
    assert (table.RECIPES[name].score, table.RECIPES[name].source) == (score, "[S] table 4")
    recipe = table.find(name)
    for path, value in details.items():
        assert attrgetter(path)(recipe) == value, path


def test_originals_do_not_carry_scores_of_reproductions() -> None:
    for name in ("simclr_r50_in1k_100ep", "simclr_r50_in1k_800ep", "simsiam_r50_in1k_800ep", "mocov2_r50_in1k_200ep"):
        assert table.RECIPES[name].source != "[S] table 4"
    assert table.RECIPES["mocov2_r50_in1k_200ep"].score == "67.5 +- .1"
    assert "mean and std of 5" in table.RECIPES["mocov2_r50_in1k_200ep"].runs
    assert table.RECIPES["byol_r18_cifar10_200ep_lightly"].runs == "best epoch"


def test_simsiam_optimal_and_moco_s_demo() -> None:
    optimal = table.find("simsiam_r50_in1k_200ep_optimal").optim
    assert (optimal.lr, optimal.weight_decay, optimal.epochs, optimal.batch_size) == (0.5, 1e-5, 200, 256)
    demo = table.find("mocov2_r18_cifar10_200ep_demo")
    assert demo.optim.lr * demo.optim.batch_size / 256 == 0.06
    assert (demo.optim.weight_decay, demo.optim.schedule, demo.optim.drop_last) == (5e-4, "epoch", True)
    assert (demo.objective.queue, demo.objective.temperature, demo.objective.key_momentum) == (4096, 0.1, 0.99)
    assert (demo.objective.symmetric, demo.objective.bn_parts, demo.views.first.min_area) == (False, 8, 0.08)
    assert [type(m).__name__ for m in build_method(demo).projector] == ["Linear"]


def test_swav_s_bn_groups_are_8_gpus() -> None:
    groups = {"r50_in1k_800ep": 512, "r50x2_in1k_400ep": 256, "r50x4_in1k_400ep": 320, "r50_in1k_200ep_b256": 0}
    assert {name: table.find(f"swav_{name}").bn_group_images for name in groups} == groups


def test_the_bundled_networks_scores_are_their_cards() -> None:
    """The recipes' expected scores against the results beside the cards."""
    for method in ("byol", "simclr"):
        for tag in ("tin32", "tin64"):
            model, entry = f"{method}_r18_mini", table.RECIPES[f"{method}_r18_{tag}"]
            path = ROOT / "model_cards" / "results" / f"{model}.{tag}" / f"linear.tiny-imagenet.{model}.json"
            assert entry.score == f"linear {json.loads(path.read_text())['score']:.1f}"


def test_every_method_of_the_page_of_methods_lists_its_recipes() -> None:
    """MoCo v1 too, whose class is that of v2; which lists it as well."""
    assert [recipe.name for recipe, _ in RecipeFilters(method="mocov1").recipes()] == [
        *(f"mocov1_{network}_in1k_200ep" for network in ("r50", "r50x2", "r50x4")),
        "mocov1_r10_cifar10_3ep",
    ]
    for method in METHODS:
        names = [recipe.name for recipe, _ in RecipeFilters(method=method).recipes()]
        assert names == [name for name, entry in RECIPES.items() if entry.make().method == method]


def test_old_names_of_small_recipes_are_aliases() -> None:
    """Version 0.2's names did not say whose hyper-parameters a recipe has; a run that began under one resumes."""
    for old in ("byol_r18_cifar10_200ep", "simsiam_r18_tin_800ep", "mocov2_r18_cifar10_800ep", "swav_r18_tin_200ep"):
        new = table.ALIASES[old]
        assert new.removeprefix(old) in ("_lightly", "_paper")
        assert table.find(old) == replace(table.find(new), name=old)
    assert "supervised_r18_cifar10_200ep" in table.RECIPES


def test_overrides_reach_nested_fields_and_keep_types() -> None:
    recipe = override(table.find("byol_r50_in1k_300ep"), ["optim.lr=0.5", "views.second.blur_p=0", "seed=7"])
    assert (recipe.optim.lr, recipe.views.second.blur_p, recipe.seed) == (0.5, 0.0, 7)
    assert isinstance(recipe.views.second.blur_p, float)
    assert override(recipe, ["zero_init_residual=true"]).zero_init_residual is True


def test_the_end_of_a_path_is_enough_where_one_field_has_it() -> None:
    recipe = table.find("byol_r18_tin32")
    for short, full in (("lr", "optim.lr"), ("tau", "optim.tau"), ("first.hue", "views.first.hue")):
        assert override(recipe, [f"{short}=0.125"]) == override(recipe, [f"{full}=0.125"]) != recipe
    assert override(recipe, ["seed=3"]).seed == 3  # a whole path comes first


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.rl=1", "nearest is 'lr'"),
        ("hue=0", r"--set hue could be views\.first\.hue or views\.second\.hue: give one of them"),
        ("epoch=1", r"no field 'epoch'; the nearest is 'optim\.epochs'"),
        ("lr=x", r"--set optim\.lr: 'x' is not a valid float"),
        ("optim=1", "name one of its fields"),
        ("optim.lr.x=1", "'lr' has no fields"),
        ("seed=1.5", "not a valid int"),
        ("zero_init_residual=maybe", "not one of true, false"),
        ("precision=fp99", "not one of fp32, bf16"),
        ("optim.warmup_epochs=x", "not a valid float"),
        ("seed", "takes field=value"),
        ("optim.batch_size=0", "batch_size=0 is out of range: it must be 1 or more"),
        ("optim.lr=nan", "lr=nan is out of range: it must be 0 or more"),
        ("optim.lr=1e999", "lr=inf is out of range"),
        ("optim.tau=1.5", "must be between 0 and 1"),
        ("objective.temperature=0", "must be above 0"),
        (
            "views.small_count=1000000000",
            r"small_count=1000000000 is out of range: it must be between 0 and 1000",
        ),
        ("views.first.hue=-.1", r"views\.first\.hue=-0\.1 is out of range: it must be between 0 and 0\.5"),
        ("views.small.hue=0", "this recipe has no 'small'"),
        ("seed=-1", "out of range"),
    ],
)
def test_a_wrong_override_is_one_line(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        override(table.find("byol_r18_tin32"), [assignment])
    assert "\n" not in str(caught.value)


def test_a_recipe_of_another_version_is_one_line() -> None:
    values = to_json(table.find("byol_r18_tin32"))
    assert from_json(values | {"optim": {"lr": 0.5}}).optim.batch_size == 4096  # fields that came later
    with pytest.raises(UserError, match="'temperature_of_the_moon', which this version does not know"):
        from_json(values | {"optim": {"temperature_of_the_moon": 1}})
    with pytest.raises(UserError, match=r"the recipe is incomplete .*name"):
        from_json({"seed": 1})


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean byol_r50_in1k_300ep"):
        table.find("byol_r50_in1k_300")
