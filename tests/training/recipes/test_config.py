"""Recipes are complete, overrides are checked."""

from __future__ import annotations

import json

import pytest

from training.recipes import table
from training.recipes.config import check_ranges, from_json, override, to_json
from training.recipes.table import RECIPES
from zoo.errors import UserError


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


def test_overrides_reach_nested_fields_and_keep_types() -> None:
    recipe = override(table.find("byol_r50_in1k_300ep"), ["optim.lr=0.5", "views.second.blur_p=0", "seed=7"])
    assert (recipe.optim.lr, recipe.views.second.blur_p, recipe.seed) == (0.5, 0.0, 7)
    assert isinstance(recipe.views.second.blur_p, float)
    assert override(recipe, ["zero_init_residual=true"]).zero_init_residual is True


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.rl=1", "nearest is 'lr'"),
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
