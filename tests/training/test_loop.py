"""Whole runs on real photographs: they learn, resume to the same bytes, and refuse what they must."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training import checkpoint, recipes, to_zoo
from training.config import Heads, Recipe
from training.loop import train
from zoo import load
from zoo.datasets import open_dataset
from zoo.errors import UserError

ROOT = Path(__file__).parents[2]
METHODS = ("byol", "simsiam")


def tiny(method: str, **optim: object) -> Recipe:
    """Two epochs in a few steps of 8 images at 32 pixels."""
    base = recipes.find(f"{method}_r18_tin32")
    settings: dict[str, object] = {"batch_size": 8, "epochs": 2, "warmup_epochs": 0.5} | optim
    return replace(
        base,
        views=replace(base.views, size=32),
        heads=Heads(hidden=16, out=8, projector_layers=2),
        optim=replace(base.optim, **settings),  # type: ignore[arg-type]
        checkpoint_steps=3,
        monitor_epochs=1,
    )


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_state(first: Path, second: Path) -> None:
    one, other = (checkpoint.load_last(p) for p in (first, second))
    assert one is not None
    assert other is not None
    assert one["step"] == other["step"]
    for key, value in one["method"].items():
        assert torch.equal(value, other["method"][key]), key
    mine, theirs = (s["optimiser"]["state"] for s in (one, other))
    for index, state in mine.items():
        for key, value in state.items():
            assert torch.equal(value, theirs[index][key]), (index, key)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_interrupted_and_resumed_is_the_undisturbed_run(
    method: str, labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, recipe = open_dataset(labelled_folder), tiny(method)
    train(recipe, dataset, tmp_path / "whole", device="cpu")
    from training import loop

    step = loop._step

    def stop_at_five(run: loop.Run, batch: loop.Batch, lr: float, tau: float) -> dict[str, float]:
        if batch.step == 5:
            raise KeyboardInterrupt
        return step(run, batch, lr, tau)

    monkeypatch.setattr(loop, "_step", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, dataset, tmp_path / "parts", device="cpu")
    monkeypatch.undo()
    stopped = checkpoint.load_last(tmp_path / "parts")
    assert stopped is not None
    assert stopped["step"] == 3  # the last multiple of checkpoint_steps
    train(recipe, dataset, tmp_path / "parts", device="cpu", resume=True)
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_sigkill_at_random_moments_ends_with_the_same_weights(
    method: str, labelled_folder: Path, tmp_path: Path
) -> None:
    import random

    sets = [
        "views.size=32",
        "heads.hidden=16",
        "heads.out=8",
        "optim.batch_size=8",
        "optim.epochs=6",
        "checkpoint_steps=3",
    ]
    command = [sys.executable, "-m", "training", "run", f"{method}_r18_tin32", "--data", str(labelled_folder)]
    command += [part for s in sets for part in ("--set", s)]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    rng, out = random.Random(0), tmp_path / "killed"
    for _ in range(20):
        resume = ["--resume"] if (out / "last.json").exists() else []
        process = subprocess.Popen([*command, "--out", str(out), *resume], cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(2, 8))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
    else:
        subprocess.run([*command, "--out", str(out), "--resume"], cwd=ROOT, check=True, capture_output=True)
    assert_same_state(tmp_path / "whole", out)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_and_the_outputs_do_not_collapse(method: str, labelled_folder: Path, tmp_path: Path) -> None:
    from training.monitors import COLLAPSED, output_spread

    recipe = replace(tiny(method, epochs=12, batch_size=16), monitor_epochs=0)
    import training.loop as loop

    losses = []
    original = loop._step

    def record(*args: object) -> dict[str, float]:
        values = original(*args)  # type: ignore[arg-type]
        losses.append(values["loss"])
        return values

    loop._step = record  # type: ignore[assignment]
    try:
        path = train(recipe, open_dataset(labelled_folder), tmp_path, device="cpu")
    finally:
        loop._step = original
    assert sum(losses[-3:]) < sum(losses[:3])
    to_zoo.export(path, tmp_path / "e.safetensors")
    photos = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
    assert output_spread(torch.from_numpy(load(tmp_path / "e.safetensors")(photos))) > COLLAPSED


def test_the_monitor_is_logged_and_the_log_is_trimmed_on_resume(labelled_folder: Path, tmp_path: Path) -> None:
    recipe = tiny("byol")
    train(recipe, open_dataset(labelled_folder), tmp_path, device="cpu")
    monitored = [line for line in log(tmp_path) if "knn" in line]
    assert [line["epoch"] for line in monitored] == [1, 2]
    assert all(0 <= line["knn"] <= 100 for line in monitored)


def test_what_must_be_refused_is(labelled_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(labelled_folder)
    with pytest.raises(UserError, match="fewer than a batch"):
        train(tiny("byol", batch_size=1000), dataset, tmp_path / "a", device="cpu")
    with pytest.raises(UserError, match="no run to resume"):
        train(tiny("byol"), dataset, tmp_path / "b", device="cpu", resume=True)
    train(tiny("byol", epochs=1), dataset, tmp_path / "c", device="cpu")
    with pytest.raises(UserError, match="add --resume"):
        train(tiny("byol", epochs=1), dataset, tmp_path / "c", device="cpu")
    with pytest.raises(UserError, match="its optim is"):
        train(tiny("byol", epochs=2), dataset, tmp_path / "c", device="cpu", resume=True)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            train(tiny("byol"), dataset, tmp_path / "d", device="cuda")


def test_a_loss_that_is_not_finite_stops_before_the_update(labelled_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the loss is nan at step"):
        train(tiny("byol", lr=1e30, warmup_epochs=0), open_dataset(labelled_folder), tmp_path, device="cpu")
    state = checkpoint.load_last(tmp_path)
    if state is not None:
        assert all(v.isfinite().all() for v in state["method"].values())


def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(labelled_folder: Path, tmp_path: Path) -> None:
    newest = train(tiny("byol"), open_dataset(labelled_folder), tmp_path, device="cpu")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    said: list[str] = []
    state = checkpoint.load_last(tmp_path, said.append)
    assert state is not None
    assert state["step"] == 9
    assert newest.name in said[0]


def test_a_corrupt_image_is_one_line_that_names_it(labelled_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(labelled_folder, folder)
    victim = sorted(folder.rglob("*.jpg"))[3]
    victim.write_bytes(victim.read_bytes()[:200])
    command = [sys.executable, "-m", "training", "run", "byol_r18_tin32", "--data", str(folder)]
    command += ["--out", str(tmp_path / "run"), "--set", "optim.batch_size=8", "--set", "views.size=32"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"}
    )
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert victim.name in lines[-1]
    assert "Traceback" not in done.stderr
