"""``benchmarks/cifar10.py``: which rows it measures, what it keeps, and how it reports a failure."""

from __future__ import annotations

import argparse
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from training.methods.find import METHODS
from training.recipes.table import RECIPES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "cifar10.py"))


def arguments(out: Path, **more: Any) -> argparse.Namespace:
    given = {"out": out, "data": str(out / "missing"), "device": "cpu", "epochs": 1, "set": None, "network": "r10"}
    given["known"] = None
    return argparse.Namespace(**given | more)


def test_every_registered_method_has_a_row(script: dict[str, Any]) -> None:
    for network in ("r10", "r18"):
        rows = script["our_rows"](network)
        trained = {RECIPES[row.recipe].make().method for row in rows}
        without = set(script["without_a_recipe"](rows))
        assert trained | without == set(METHODS)
        assert not without or network == "r18"  # only some have a recipe for a GPU
        assert {"byol", "simsiam", "simclr", "mocov2", "swav"} <= trained
        assert len({row.name for row in rows}) == len(rows)


def test_lightly_s_methods_are_those_of_its_script(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert script["LIGHTLY"] == tuple(runpy.run_path(str(ROOT / "benchmarks" / "lightly_methods.py"))["METHODS"])


def test_all_rows_have_the_same_epochs(script: dict[str, Any], tmp_path: Path) -> None:
    for row in script["our_rows"]("r10"):
        recipe = script["recipe_of"](row, arguments(tmp_path, epochs=7))
        assert (recipe.optim.epochs, recipe.optim.batch_size, recipe.views.size) == (7, 64, 24)
        assert script["recipe_of"](row, arguments(tmp_path, epochs=None)).optim.epochs == 3


def test_the_time_of_a_step_is_hardly_moved_by_other_work(script: dict[str, Any]) -> None:
    assert script["unhindered"]([4.0] * 15 + [9.0] * 5) == 4.0
    assert script["unhindered"]([3.0, 5.0]) == 3.0


def test_a_row_that_is_there_is_read_and_a_failed_one_is_reported(script: dict[str, Any], tmp_path: Path) -> None:
    row = next(row for row in script["our_rows"]("r10") if row.name == "simclr")
    failed = script["measure"](row, 0, arguments(tmp_path))
    assert failed["seed"] == 0
    assert "no data at" in failed["error"] or "missing" in failed["error"]
    kept = {"seed": 1, "minutes": 2.0, "step_ms": 50.0, "peak_mb": 900.0}
    kept |= {name: {"score": score, "interval_95": [1.0, 99.0]} for name, score in (("knn", 40.0), ("linear", 50.0))}
    folder = tmp_path / "simclr" / "seed1"
    folder.mkdir()
    (folder / "row.json").write_text(json.dumps(kept))
    assert script["measure"](row, 1, arguments(tmp_path)) == kept
    # A seed that failed counts nowhere; of one seed the interval is the evaluation's.
    one = script["summary"](row, [failed, kept])
    assert (one["knn"], one["step_ms"]) == ({"score": 40.0, "interval_95": [1.0, 99.0]}, 50.0)
    assert "| simclr | 1 | 40.0 (1.0-99.0) | 50.0 (1.0-99.0) | 50 | 900 | 2 |" in script["table"]([one])
    other = kept | {"knn": {"score": 44.0, "interval_95": [0, 100]}}
    two = script["summary"](row, [kept, other])
    assert two["knn"] == {"score": 42.0, "interval_95": [16.59, 67.41]}  # 42 +- 12.706 x 2
    assert script["summary"](row, [failed])["seeds"] == [failed]
    # A score counts wherever it was measured, a time only beside others of the same machine.
    elsewhere = other | {"step_ms": 90.0, "precision": "fp32"}
    mixed = script["summary"](row, [kept, elsewhere])
    assert (mixed["knn"]["score"], mixed["step_ms"]) == (42.0, 50.0)
    assert failed["error"] in script["table"]([script["summary"](row, [failed])])


def test_seeds_of_an_earlier_table_are_not_measured_again(script: dict[str, Any], tmp_path: Path) -> None:
    row = next(row for row in script["our_rows"]("r10") if row.name == "simclr")
    known = tmp_path / "known.json"
    seeds = [{"seed": 0, "knn": 1}, {"seed": 1, "error": "it was full"}]
    known.write_text(json.dumps({"rows": [{"name": "byol", "seeds": []}, {"name": "simclr", "seeds": seeds}]}))
    assert script["measure"](row, 0, arguments(tmp_path, known=known)) == seeds[0]
    assert "it was full" not in script["measure"](row, 1, arguments(tmp_path, known=known))["error"]  # tried again
