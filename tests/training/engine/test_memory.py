"""What a method says of itself decides its estimates: a built-in one and one of the user's own alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import METHODS, tiny

from training.engine.cost import operations
from training.engine.memory import estimate, fitting, require_fit
from training.methods import build_method, find_method
from training.methods.base import recipe_encoder
from training.recipes import table
from training.recipes.config import Recipe, override
from zoo.errors import UserError
from zoo.models.resnet import count_parameters

OWN = """
import copy
from torch import nn
from training.methods.simsiam import SimSiam

class Plain(SimSiam):
    pass

class Follows(SimSiam):
    follower_name = "teacher.network"

    def __init__(self, encoder, dim, **options):
        super().__init__(encoder, dim, **options)
        self.teacher = nn.ModuleDict({"network": copy.deepcopy(encoder).requires_grad_(False)})

class OneDirection(Follows):
    one_direction = True

class Compares(SimSiam):
    batch_loss = True
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with methods of the user's own."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_methods.py").write_text(OWN)
    return tmp_path / "own_methods.py"


def of(method: str, recipe: Recipe) -> Recipe:
    return replace(recipe, method=f"own_methods:{method}")


def test_a_follower_counts_with_its_weights_and_its_forward_passes(own: Path) -> None:
    recipe = tiny("simsiam")
    plain, follows = of("Plain", recipe), of("Follows", recipe)
    encoder, _ = recipe_encoder(recipe)
    assert estimate(plain) == estimate(recipe)
    assert estimate(follows).fixed - estimate(plain).fixed == pytest.approx(4 * count_parameters(encoder), abs=1)
    # A view costs three forward passes where it is trained, and a fourth where the follower sees it too.
    assert operations(plain) == operations(recipe)
    assert operations(follows) / operations(plain) == pytest.approx(4 / 3)
    assert operations(of("OneDirection", recipe)) / operations(plain) == pytest.approx((3 + 1) / (3 + 3))


def test_a_loss_over_the_batch_is_never_split_into_micro_batches(own: Path) -> None:
    recipe, limit = table.find("simsiam_r50_in1k_100ep"), 10 * 10**9
    assert any("accumulate" in way[0] for way in fitting(of("Plain", recipe), limit))
    ways = fitting(of("Compares", recipe), limit)
    assert ways
    assert not any("accumulate" in setting for way in ways for setting in way)
    for way in ways:
        assert estimate(override(of("Compares", recipe), way)).total <= limit


@pytest.mark.parametrize("name", METHODS)
def test_a_built_in_method_names_the_follower_that_it_has(name: str) -> None:
    followers = [child for child, _ in build_method(tiny(name), 2).named_children() if child.endswith("_encoder")]
    assert followers == [word for word in (find_method(name).follower_name,) if word]


def test_a_follower_that_a_recipe_leaves_out_has_no_forward_passes() -> None:
    recipe = tiny("byol")
    without = replace(recipe, objective=replace(recipe.objective, target=False))
    assert operations(recipe) / operations(without) == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("byol", "heads.hidden=1000000000"),
        ("byol", "heads.out=1000000000000000"),
        ("simsiam", "heads.projector_hidden=10000000000"),
        ("swav", "heads.prototypes=10000000000"),
        ("swav", "objective.queue=100000000000"),
        ("supervised", "heads.classes=100000000000"),
    ],
)
def test_heads_that_cannot_fit_are_refused_before_they_are_made(method: str, setting: str) -> None:
    recipe = override(tiny(method), [setting])
    with pytest.raises(UserError, match=r"the weights of .* need .* GB on cpu, which has .*: make the heads smaller"):
        require_fit(recipe, torch.device("cpu"))
