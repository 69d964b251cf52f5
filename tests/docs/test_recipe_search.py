"""``benchmarks/recipe_search.py`` gives every method the same number of candidates, its own setting among them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from training.recipes.config import override
from training.recipes.table import find
from training.sweeps.grid import candidates, parse

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "recipe_search.py"))


@pytest.mark.parametrize("method", SCRIPT["METHODS"])
def test_every_method_has_four_candidates_and_its_own_setting_is_one(method: str) -> None:
    recipe = find(method + SCRIPT["SUFFIX"])
    found = [settings for over in SCRIPT["sweeps"](recipe) for settings in candidates(recipe, parse([over]))]
    assert len(found) == 4
    assert sum(override(recipe, settings) == recipe for settings in found) == 1


def test_the_error_is_that_of_two_binomials() -> None:
    """50 % of 10 000 images has a standard error of .5, so the difference of two has .707."""
    assert SCRIPT["error"](50.0, 50.0, 10_000) == pytest.approx(0.5 * 2**0.5)
