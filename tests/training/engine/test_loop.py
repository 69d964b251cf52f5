"""Whole runs on real photographs: they learn, resume to the same bytes, and refuse what they must."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import BANKS, METHODS, ROOT, Killed, after_step, assert_same_state, kill, last, log, tiny

from training.engine import checkpoint, loop
from training.engine.loop import train
from training.engine.state import Run
from training.results import export
from zoo import load
from zoo.datasets.dataset import Dataset
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError


def record(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, float]]:
    """What the steps to come report, by number."""
    reports: dict[int, dict[str, float]] = {}
    original = loop.train_steps

    def steps(run: Run, **options: Any) -> Generator[dict[str, float], None, None]:
        with closing(original(run, **options)) as made:
            for report in made:
                reports[run.step - 1] = report
                yield report

    monkeypatch.setattr(loop, "train_steps", steps)
    return reports


def stop(run: Run) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("method", "drop_last"), [*((method, True) for method in METHODS), ("byol", False), ("localagg", False)]
)
def test_a_run_killed_and_stopped_and_resumed_is_the_undisturbed_run(
    method: str, drop_last: bool, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, parts = tiny(method, optim={"drop_last": drop_last}), tmp_path / "parts"
    whole = record(monkeypatch)
    train(recipe, photos, tmp_path / "whole", device="cpu")
    reports = record(monkeypatch)

    with monkeypatch.context() as killing:
        after_step(5, kill, killing)
        with pytest.raises(Killed):
            train(recipe, photos, parts, device="cpu")
    assert last(parts)["step"] == 3  # the last multiple of checkpoint_steps
    with monkeypatch.context() as stopping:
        after_step(6, stop, stopping)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, photos, parts, device="cpu", resume=True)
    assert last(parts)["step"] == 7  # the step after the signal is made and saved
    train(recipe, photos, parts, device="cpu", resume=True)

    assert reports == whole
    assert len(whole) == last(parts)["total_steps"] == (10 if drop_last else 2 * len(photos) // 8)
    assert_same_state(last(tmp_path / "whole"), last(parts))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_twenty_kills_at_random_steps_change_no_bit(
    method: str, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(method, optim={"epochs": 8})
    whole = record(monkeypatch)
    train(recipe, photos, tmp_path / "whole", device="cpu")
    reports, draw, parts = record(monkeypatch), random.Random(0), tmp_path / "parts"
    for _ in range(20):
        reached = last(parts)["step"] if (parts / "last.json").exists() else 0
        with monkeypatch.context() as killing:
            after_step(min(reached + draw.randint(1, 4), 39), kill, killing)
            with pytest.raises(Killed):
                train(recipe, photos, parts, device="cpu", resume=reached > 0)
    train(recipe, photos, parts, device="cpu", resume=True)
    assert reports == whole
    assert_same_state(last(tmp_path / "whole"), last(parts))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [m for m in METHODS if m not in (*BANKS, "barlowtwins", "vicreg")]
)  # of these there is no such recipe
def test_sigkill_at_random_moments_ends_with_the_same_weights(
    method: str, labelled_folder: Path, tmp_path: Path
) -> None:
    """Of real processes: each is killed up to two seconds after its first step can have begun."""
    sets = ("optim.batch_size=8", "optim.epochs=6", "optim.warmup_epochs=1", "precision=fp32", "checkpoint_steps=2")
    heads = ("heads.hidden=16", "heads.out=8", "heads.prototypes=12", "heads.classes=2")
    objective = ("objective.queue=40", "objective.bn_parts=2", "objective.queue_from_epoch=2")
    command = [sys.executable, "-m", "training", "run", f"{method}_r18_cifar10_200ep", "--data", str(labelled_folder)]
    command += [part for s in (*sets, *heads, *objective) for part in ("--set", s)]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    rng, out = random.Random(0), tmp_path / "killed"

    def resume() -> list[str]:
        return ["--out", str(out), *(["--resume"] if (out / "last.json").exists() else [])]

    def started() -> int:
        return (out / "log.jsonl").stat().st_mtime_ns if (out / "log.jsonl").exists() else 0

    for _ in range(8):
        before = started()
        process = subprocess.Popen(
            [*command, *resume()], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and started() == before:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL)
    subprocess.run([*command, *resume()], cwd=ROOT, check=True, capture_output=True)
    assert_same_state(last(tmp_path / "whole"), last(out))


@pytest.mark.parametrize("method", ["byol", "simsiam"])
def test_the_loss_falls_and_the_outputs_do_not_collapse(
    method: str, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.monitoring.collapse import COLLAPSE_SPREAD, output_spread

    recipe = tiny(method, optim={"epochs": 12, "batch_size": 16}, checkpoint_steps=1000)
    reports = record(monkeypatch)
    path = train(recipe, photos, tmp_path, device="cpu")
    losses = [report["loss"] for report in reports.values()]
    assert sum(losses[-3:]) < sum(losses[:3])
    export.export(path, tmp_path / "e.safetensors")
    images = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
    assert output_spread(torch.from_numpy(load(tmp_path / "e.safetensors")(images))) > COLLAPSE_SPREAD


def test_the_log_has_hardware_monitors_and_steps_and_is_trimmed_on_resume(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("byol", monitor_epochs=1, optim={"epochs": 5})
    with monkeypatch.context() as killing:
        after_step(23, kill, killing)
        with pytest.raises(Killed):
            train(recipe, photos, tmp_path, device="cpu")
    lines = log(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [20]
    (tmp_path / checkpoint.file_name(21)).unlink()  # back to 18, before that line
    train(recipe, photos, tmp_path, device="cpu", resume=True)
    lines = log(tmp_path)
    assert [line["step"] for line in lines if "hardware" in line] == [0, 18]
    assert "CPU core" in lines[0]["hardware"]
    assert lines[0]["ranks"] == 1
    assert [line["epoch"] for line in lines if "knn" in line] == [1, 2, 3, 4, 5]
    assert all(0 <= line["knn"] <= 100 for line in lines if "knn" in line)
    step, at_the_end = (line for line in lines if "loss" in line)
    assert (step["step"], at_the_end["step"]) == (20, 25)
    assert step["grad_norm"] > 0
    assert {"lr", "tau", "images_per_second"} <= step.keys()


@pytest.mark.parametrize("default", ["bfloat16", "meta"])
def test_defaults_of_the_calling_program_change_no_bit(default: str, photos: Dataset, tmp_path: Path) -> None:
    recipe = tiny("byol", monitor_epochs=1)
    train(recipe, photos, tmp_path / "plain", device="cpu")
    try:
        if default == "meta":  # a device that every machine has
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, default))
        train(recipe, photos, tmp_path / "other", device="cpu")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert_same_state(last(tmp_path / "other"), last(tmp_path / "plain"))


def test_what_must_be_refused_is(photos: Dataset, tmp_path: Path) -> None:
    def refused(match: str, folder: str, resume: bool = False, **changes: Any) -> None:
        with pytest.raises(UserError, match=match):
            train(tiny("byol", **changes), photos, tmp_path / folder, device="cpu", resume=resume)

    refused("no run to resume", "b", resume=True)
    refused("1 or more", "a", keep_checkpoints=0)
    once = {"optim": {"epochs": 1}}
    train(tiny("byol", **once), photos, tmp_path / "c", device="cpu")
    refused("add --resume", "c", **once)
    refused("its optim.epochs is 1, this one's is 2", "c", resume=True, optim={"epochs": 2})
    refused("its accumulate is 1", "c", resume=True, accumulate=2, **once)


def test_the_images_of_a_run_are_their_content_and_not_their_path(labelled_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(labelled_folder, tmp_path / "data")
    recipe = tiny("byol", optim={"epochs": 1})
    train(recipe, open_dataset(folder), tmp_path / "run", device="cpu")
    moved = folder.rename(tmp_path / "moved")
    train(recipe, open_dataset(moved), tmp_path / "run", device="cpu", resume=True)
    first = next(path for path in sorted(moved.rglob("*")) if path.is_file())
    first.write_bytes(first.read_bytes() + b"0")
    with pytest.raises(UserError, match=r"holds a run on other images: the .* of data had other names, sizes"):
        train(recipe, open_dataset(moved), tmp_path / "run", device="cpu", resume=True)


def test_the_last_checkpoints_are_kept_as_many_as_asked_for(photos: Dataset, tmp_path: Path) -> None:
    train(tiny("byol", keep_checkpoints=3), photos, tmp_path, device="cpu")
    kept = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert kept == [checkpoint.file_name(step) for step in (6, 9, 10)]
    before = (tmp_path / "last.json").read_bytes()
    train(
        tiny("byol", keep_checkpoints=1), photos, tmp_path, device="cpu", resume=True
    )  # a finished run: nothing to do
    assert (tmp_path / "last.json").read_bytes() == before


def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(photos: Dataset, tmp_path: Path) -> None:
    newest = train(tiny("byol"), photos, tmp_path, device="cpu")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    said: list[str] = []
    state = checkpoint.load_last(tmp_path, said.append)
    assert state is not None
    assert state["step"] == 9
    assert newest.name in said[0]


def test_too_many_corrupt_images_are_one_line_that_names_one(labelled_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(labelled_folder, folder)
    for victim in sorted(folder.rglob("*.jpg"))[:5]:
        victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(UserError, match=r"images cannot be read, .*\.jpg") as caught:
        train(tiny("byol"), open_dataset(folder), tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("drop_last", [True, False])
def test_monitors_run_after_every_so_many_epochs_and_at_the_end(
    drop_last: bool, photos: Dataset, tmp_path: Path
) -> None:
    recipe = tiny("byol", monitor_epochs=2, optim={"epochs": 3, "drop_last": drop_last})
    train(recipe, photos, tmp_path, device="cpu")
    seen = [(line["epoch"], line["step"]) for line in log(tmp_path) if "epoch" in line]
    count, whole = len(photos), len(photos) // 8
    ends = (2 * whole, 3 * whole) if drop_last else (-(-2 * count // 8), 3 * count // 8)
    assert seen == [(2, ends[0]), (3, ends[1])]
