"""Sweeps: equal budgets, a ranking on images that none was trained on, and the same result after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import tiny

from training.engine import memory
from training.launch import launch_sweep
from training.sweeps import run as sweeps
from training.sweeps.grid import candidates, kept, parse, require_not_set, rung_epochs
from training.sweeps.run import planned_images, sweep
from zoo.datasets.dataset import Dataset
from zoo.datasets.labelled import training_splits
from zoo.errors import UserError
from zoo.evaluate.result import wilson_interval

ROOT = Path(__file__).parents[3]


@pytest.fixture
def splits(labelled_folder: Path) -> tuple[Dataset, Dataset]:
    return training_splits(labelled_folder)


def options(**changes: object) -> dict[str, Any]:
    return {"over": {"optim.lr": ["0.05", "0.2"]}, "halving": None, "device": "cpu", "report": lambda _: None} | changes


def test_a_grid_is_ranked_by_held_out_knn_and_runs_once(
    splits: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    over = {"optim.lr": ["0.05", "0.2"], "seed": ["0", "1"]}
    result = sweep(tiny("simsiam"), *splits, tmp_path, **options(over=over, report=said.append))
    assert json.loads((tmp_path / "sweep.json").read_text()) == result
    (rung,) = result["rungs"]
    assert [trial["knn"] for trial in rung["trials"]] == sorted((t["knn"] for t in rung["trials"]), reverse=True)
    assert {tuple(trial["settings"]) for trial in rung["trials"]} == {
        (f"optim.lr={lr}", f"seed={seed}") for lr in ("0.05", "0.2") for seed in "01"
    }
    assert result["best"] == rung["trials"][0]["settings"]
    queries = len(splits[1])
    for trial in rung["trials"]:
        right = round(trial["knn"] * queries / 100)
        assert trial["interval"] == [round(v, 2) for v in wilson_interval(np.arange(queries) < right)[1]]
        assert trial["images_seen"] == rung["epochs"] * (len(splits[0]) // 8) * 8
    assert len(said) == 4
    # Again: nothing is trained; another value trains only its own candidates.
    trained: list[Path] = []
    original = sweeps.train
    monkeypatch.setattr(sweeps, "train", lambda *a, **k: trained.append(a[2]) or original(*a, **k))
    assert sweep(tiny("simsiam"), *splits, tmp_path, **options(over=over)) == result
    assert trained == []
    more = sweep(tiny("simsiam"), *splits, tmp_path, **options(over={**over, "optim.lr": ["0.05", "0.1", "0.2"]}))
    assert [folder.name for folder in trained] == [f"0002ep.optim.lr=0.1,seed={seed}" for seed in "01"]
    assert len(more["rungs"][0]["trials"]) == 6


def test_successive_halving_gives_each_rung_the_same_epochs_and_keeps_the_best(
    splits: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    recipe = tiny("simsiam", optim={"epochs": 4})
    over = {"optim.lr": ["0.01", "0.05", "0.1", "0.2"]}
    result = sweep(recipe, *splits, tmp_path, **options(over=over, halving=2))
    assert [(rung["epochs"], len(rung["trials"])) for rung in result["rungs"]] == [(1, 4), (2, 2), (4, 1)]
    for rung, after in zip(result["rungs"], result["rungs"][1:], strict=False):
        chosen = [trial["settings"] for trial in rung["trials"] if trial["kept"]]
        assert chosen == [trial["settings"] for trial in rung["trials"]][: len(chosen)]
        assert {tuple(s) for s in chosen} == {tuple(trial["settings"]) for trial in after["trials"]}
        assert len({trial["images_seen"] for trial in rung["trials"]}) == 1
    assert result["scheme"] == "successive halving, 1 in 2 kept"
    spent = sum(trial["images_seen"] for rung in result["rungs"] for trial in rung["trials"])
    assert spent == planned_images(recipe, len(splits[0]), 4, 2)
    for path in tmp_path.glob("*/result.json"):
        stated = json.loads(path.read_text())["recipe"]["optim"]
        assert stated["warmup_epochs"] == pytest.approx(0.5 * stated["epochs"] / 4)


@pytest.mark.parametrize(
    ("epochs", "count", "eta", "lengths"),
    [(8, 4, 2, [2, 4, 8]), (8, 3, 2, [4, 8]), (9, 9, 3, [1, 3, 9]), (2, 16, 2, [1, 2]), (1, 8, 2, [1]), (8, 1, 2, [8])],
)
def test_the_lengths_of_rungs(epochs: int, count: int, eta: int, lengths: list[int]) -> None:
    assert rung_epochs(epochs, count, eta) == lengths
    assert kept(count, eta) == max(1, count // eta)


def test_a_killed_sweep_goes_on_by_the_same_command(labelled_folder: Path, tmp_path: Path) -> None:
    """SIGKILL between two runs and within one; the ranking is that of a sweep that nobody killed."""
    small = "architecture=r10 views.size=16 heads.hidden=16 optim.batch_size=8 optim.epochs=6 monitor_epochs=0"
    sets = [word for setting in f"{small} checkpoint_steps=2".split() for word in ("--set", setting)]
    data = ["--data", str(labelled_folder), "--device", "cpu", "--over", "optim.lr=0.05,0.2"]
    command = [sys.executable, "-m", "training", "sweep", "simsiam_r18_tin32", *data, *sets]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for pattern in ("*lr=0.05/checkpoint-*.pt", "*lr=0.2/checkpoint-*.pt"):
        with subprocess.Popen(
            [*command, "--out", str(killed)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            until = time.monotonic() + 200
            while not list(killed.glob(pattern)) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
    assert not (killed / "sweep.json").exists()
    first = next(killed.glob("*lr=0.05/result.json"))
    before = first.stat().st_mtime_ns
    for out in (killed, whole):
        done = subprocess.run([*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == before
    assert done.stdout.splitlines()[-1] == str(whole / "sweep.json")
    assert "2 candidates; all runs together, expected: " in done.stderr

    def timeless(folder: Path) -> object:
        result = json.loads((folder / "sweep.json").read_text())
        for rung in result["rungs"]:
            for trial in rung["trials"]:
                del trial["minutes"]
        return result

    assert timeless(killed) == timeless(whole)


def test_what_is_there_of_another_sweep_or_damaged_is_refused(splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    over = {"optim.lr": ["0.05"]}
    sweep(tiny("simsiam"), *splits, tmp_path, **options(over=over))
    with pytest.raises(UserError, match="holds a trial of another recipe or other images"):
        sweep(replace(tiny("simsiam"), seed=7), *splits, tmp_path, **options(over=over))
    with pytest.raises(UserError, match="holds a trial of another recipe or other images"):
        sweep(tiny("simsiam"), splits[0], splits[1].subset(np.arange(3)), tmp_path, **options(over=over))
    path = next(tmp_path.glob("*/result.json"))
    good = path.read_text()
    path.unlink()  # the trial is interrupted; another rate would be planned anew by a run of its own
    with pytest.raises(UserError, match=r"holds a trial of another recipe or other images: choose another --out$"):
        sweep(tiny("simsiam", optim={"warmup_epochs": 0.25}), *splits, tmp_path, **options(over=over))
    for text in ("", "[]", good[:80], good.replace('"knn": ', '"knn": 1')[:-2] + "}}"):
        path.write_text(text)
        with pytest.raises(
            UserError, match=r"result\.json is damaged .*: remove .*, and its candidate is trained again"
        ):
            sweep(tiny("simsiam"), *splits, tmp_path, **options(over=over))


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ([], "a sweep needs --over"),
        (["optim.lr"], "--over takes FIELD=VALUE,VALUE"),
        (["optim.lr="], "--over takes FIELD=VALUE,VALUE"),
        (["optim.lr=0.1,,0.2"], "--over takes FIELD=VALUE,VALUE"),
        (["optim.lr=0.1,0.1"], "a value is there twice"),
        (["optim.lr=0.1,0.10"], "is the same run as another candidate"),
        (["optim.lr=0.1", "optim.lr=0.2"], "is given twice"),
        (["optim.lr=0.1", "lr=0.2"], "optim.lr and lr are the same field"),
        (["hue=0.1"], "hue could be views.first.hue or views.second.hue"),
        (["optim.rl=0.1"], "no field 'rl'; the nearest is 'lr'"),
        (["optim.lr=0.1,-1"], r"optim\.lr=-1.0 is out of range"),
        (["optim.epochs=1,2"], "every candidate gets the same budget"),
        (["early_stop_patience=1,2"], "every candidate gets the same budget"),
        (["seed=" + ",".join(map(str, range(40))), "optim.lr=" + ",".join(map(str, range(40)))], "1600 combinations"),
    ],
)
def test_wrong_values_are_one_line(over: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        candidates(tiny("simsiam"), parse(over))


@pytest.mark.parametrize("overrides", [["optim.lr=0.3"], ["seed=1", "lr=0.3"]])
def test_a_field_is_varied_or_set_but_not_both(overrides: list[str]) -> None:
    recipe = tiny("simsiam")
    with pytest.raises(UserError, match=r"--over optim\.lr replaces --set (optim\.)?lr"):
        require_not_set(recipe, {"optim.lr": ["0.1", "0.2"]}, overrides)
    require_not_set(recipe, {"optim.lr": ["0.1", "0.2"]}, ["optim.epochs=2"])


def test_a_candidate_that_cannot_run_stops_a_sweep_before_its_first_run(
    splits: tuple[Dataset, Dataset], labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="fewer than a batch of 64"):
        sweep(tiny("simsiam"), *splits, tmp_path / "out", **options(over={"optim.batch_size": ["8", "64"]}))
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "device_memory", lambda device: 800_000_000)
        with pytest.raises(UserError, match=r"needs about .* GB on cpu, which has 0\.8"):
            sweep(tiny("simsiam"), *splits, tmp_path / "out", **options(over={"architecture": ["tiny", "r50"]}))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="has no labels"):
        sweep(tiny("simsiam"), replace(splits[0], labels=None), splits[1], tmp_path / "out", **options())
    monkeypatch.setenv("WORLD_SIZE", "2")
    given: dict[str, Any] = {"over": ["optim.lr=0.1"], "overrides": [], "halving": None, "images": None}
    with pytest.raises(UserError, match="without torchrun"):
        launch_sweep(
            "simsiam_r18_tin32", str(labelled_folder), tmp_path, in_memory=False, device="cpu", report=print, **given
        )


def test_a_name_of_a_folder_is_safe_and_of_these_settings_alone() -> None:
    assert sweeps._file_name(["optim.lr=0.1", "seed=1"]) == "optim.lr=0.1,seed=1"
    names = [sweeps._file_name([f"method={text}"]) for text in ("a/b:C", "a_b:C", "a:b:C", "x" * 300, "x" * 301)]
    assert len(set(names)) == len(names)
    assert all(len(name) < 200 and "/" not in name for name in names)
