"""The table of models, and the commands that show it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.errors import UserError
from zoo.models import registry
from zoo.models.registry import ARCHITECTURES, DEFAULT_MODEL, MODELS

ROOT = Path(__file__).parents[3]


def test_all_architectures_of_both_methods_are_there() -> None:
    for method in ("byol", "simsiam"):
        for architecture in ("r18", "r50", "r50x2", "r50x4", "r200", "r200x2"):
            spec = MODELS[f"{method}_{architecture}"]
            assert (spec.method, spec.architecture) == (method, architecture)


def test_every_entry_has_its_parts() -> None:
    from training.recipes.table import RECIPES

    for name, spec in MODELS.items():
        assert name == spec.name
        assert spec.architecture in ARCHITECTURES
        assert spec.recipe in RECIPES or (spec.recipe == "" and spec.weights), name
        for tag, weights in spec.weights.items():
            assert weights.licence, (name, tag)
            assert weights.source, (name, tag)


def test_official_weights_are_the_default_of_the_papers_names() -> None:
    assert MODELS["byol_r50"].default_tag == "deepmind_in1k"
    assert MODELS["byol_r50"].weights["deepmind_in1k"].padding == "same"
    assert MODELS["byol_r200x2"].default_tag == "deepmind_in1k"
    assert MODELS["simsiam_r50"].default_tag == "fair_in1k_100ep"


def test_bundled_weights_exist_with_their_hash_and_size() -> None:
    from zoo.hub.weights import BUNDLED
    from zoo.system.atomic_files import sha256_file

    weights = next(iter(MODELS[DEFAULT_MODEL].weights.values()))
    file = BUNDLED / weights.location.removeprefix("bundled:")
    assert sha256_file(file) == weights.sha256
    assert file.stat().st_size < 50e6


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean byol_r50\?"):
        registry.find("byol_r05")


@pytest.mark.parametrize("command", [["--help"], ["list"]])
def test_help_and_list_do_not_import_torch(command: list[str]) -> None:
    """What makes them answer in under half a second; a time is not asserted, the cause is."""
    code = (
        "import sys; from zoo.cli.app import exit_code; from zoo.cli.main import app; "
        "sys.argv = ['zoo', *sys.argv[1:]]; code = exit_code(app, 'zoo', ''); "
        "heavy = {'torch', 'timm', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr); sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("byol_r200x2" in done.stdout) == (command == ["list"])


def test_list_and_info_say_what_has_no_weights() -> None:
    env = os.environ | {"COLUMNS": "60"}  # a narrow terminal must not cut names
    listed = subprocess.run(
        [sys.executable, "-m", "zoo", "list"], cwd=ROOT, capture_output=True, text=True, check=True, env=env
    ).stdout
    assert all(name in listed for name in MODELS)
    told = subprocess.run(
        [sys.executable, "-m", "zoo", "info", "byol_r50x2"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "none released" in told
    assert "zoo-train run byol_r50x2_in1k_1000ep" in told
