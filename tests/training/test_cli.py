"""``zoo-train`` as a user types it: train, resume, summarise, export, extract."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from forked_commands import run_module

ROOT = Path(__file__).parents[2]
SMALL = ("architecture=r10", "views.size=32", "heads.hidden=16", "heads.out=8", "optim.batch_size=8", "optim.epochs=1",
         "monitor_epochs=1")  # fmt: skip


def zoo_train(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_module("training", *arguments, cwd=ROOT)


@pytest.fixture(scope="module")
def run(labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in an interpreter of its own, as a user starts it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    sets = [part for s in SMALL for part in ("--set", s)]
    command = [sys.executable, "-m", "training", "run", "byol_r18_tin32", "--data", labelled_folder, "--out", folder]
    done = subprocess.run([*command, *sets], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "zoo-train export" in done.stdout
    assert "images/s" in done.stderr
    return folder


def test_a_run_becomes_an_encoder_that_extracts(run: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "e.safetensors"
    assert zoo_train("export", run, "--out", encoder, "--half").returncode == 0
    options = ["--images", "examples/photos", "--out", tmp_path / "o", "--backend", "torch", "--model", encoder]
    done = run_module("zoo", "extract", *options, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "o" / "_manifest.json").read_text())
    assert (manifest["model"], manifest["images"], manifest["dim"]) == ("e", 24, 256)
    assert manifest["preprocessing"]["input_size"] == 32


def test_a_summary_is_of_the_run(run: Path, tmp_path: Path) -> None:
    assert zoo_train("summary", run, "--out", tmp_path / "s").returncode == 0
    facts = json.loads((tmp_path / "s" / "training.json").read_text())
    assert facts["steps"] == facts["total_steps"] == facts["images_seen"] / 8
    assert [epoch for epoch, _ in facts["knn_monitor"]] == [1]
    assert "CPU core" in facts["hardware"]
    assert (tmp_path / "s" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_recipes_are_listed() -> None:
    done = zoo_train("recipes")
    assert done.returncode == 0
    assert "byol_r200x2_in1k_1000ep" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "byol", "--data", "x", "--out", "y"), "unknown recipe"),
        (("run", "byol_r18_tin32", "--data", "no/such", "--out", "y"), "no data at no/such"),
        (("run", "byol_r18_tin32", "--data", "x", "--out", "y", "--set", "optim.rl=1"), "nearest is 'lr'"),
        (("export", "examples", "--out", "y"), "holds no checkpoint"),
        (("export", "README.md", "--out", "y"), "is not a readable checkpoint"),
        (("summary", "examples", "--out", "y"), "holds no checkpoint"),
    ],
)
def test_a_user_s_error_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = zoo_train(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
