"""``docs/methods.md`` is what its command writes, and has every method."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from training.methods.find import METHODS
from training.recipes.table import RECIPES
from zoo.models.registry import MODELS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "methods_table.py"))


def test_the_page_is_what_the_command_writes(script: dict[str, Any]) -> None:
    assert script["PAGE"].read_text() == script["render"]()


def test_it_has_a_row_for_every_method(script: dict[str, Any]) -> None:
    rows = [line.split("|")[2].strip(" `") for line in script["render"]().splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(set(rows))
    expected = {script["SAME"].get(name, name) for name in METHODS} | {spec.method for spec in MODELS.values()}
    assert set(rows) == expected


OF_THE_PAPERS = {
    "Local Agg.": "localagg", "PIRL": "pirl", "CPC v2": "cpc", "CMC": "cmc", "SimCLR": "simclr", "MoCo v2": "mocov2",
    "InfoMin Aug.": "infomin", "BYOL": "byol", "MoCo": "mocov1", "InstDisc": "instdisc", "SwAV": "swav",
    "SimSiam": "simsiam",
    "Supervised": "supervised", "Supervised-IN": "supervised", "ImageNet supervised": "supervised",
}  # fmt: skip
UNTRAINED = {"Random init", "scratch"}


def test_every_method_that_the_papers_compare_has_a_model_a_recipe_and_a_row(script: dict[str, Any]) -> None:
    """No method of BYOL's tables 1 to 4 and SimSiam's tables 4 and 5 is a number only."""
    tables = json.loads((ROOT / "zoo" / "evaluate" / "published.json").read_text())
    rows = [row for table in tables["tables"] for row in table["rows"]]
    compared = {
        re.sub(r" \(repro\.?\+?\)$|, (base|optimal|1000 epochs, B 4096)$", "", row["method"])
        for row in rows
        if re.match(r"\[B\] table [1-4][a-c]?\b|\[S\] table [45]\b", row.get("source", ""))
    }
    assert compared == OF_THE_PAPERS.keys() | UNTRAINED
    page = script["render"]()
    for method in set(OF_THE_PAPERS.values()):
        name = script["SAME"].get(method, method)
        assert any(spec.method == name for spec in MODELS.values()), method
        assert any(recipe.partition("_")[0] == method for recipe in RECIPES), method
        assert f"| `{name}` |" in page


def test_the_cells_are_those_of_the_sources(script: dict[str, Any]) -> None:
    cells = {}
    for line in script["render"]().splitlines():
        if line.startswith("| ") and "`" in line:
            cells[line.split("|")[2].strip(" `")] = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells["byol"][2:5] == ["`byol_r50_in1k_1000ep`", "yes", "16"]  # with the network that ships
    assert cells["byol"][6] == "74.4 (google-deepmind/deepmind-research, byol, README)"
    assert cells["localagg"][2:5] == ["`localagg_r50_in1k_200ep`", "yes", "1"]
    assert cells["infomin"][4] == "10, 10 by hand"
    assert cells["supervised"][3] == "-"
    assert cells["mocov1"][2] == "`mocov1_r50_in1k_200ep`"
    assert cells["dino"][2:4] == ["-", "-"]
