"""A run's folder under a full disk, a SIGKILL at any moment of a save, damage, a second run, and its removal."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tiny_runs import add_tiny_architecture, assert_same_state, last, tiny

from training.engine import checkpoint, loop
from training.engine.loop import train
from zoo.datasets.dataset import open_dataset
from zoo.errors import UserError
from zoo.system import atomic_files

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


def limit_file_size(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tiny_architecture()
    dataset, recipe, parts = open_dataset(PHOTOS), tiny("simsiam"), tmp_path / "parts"
    train(recipe, dataset, tmp_path / "whole", device="cpu")
    original: Callable[[Any, Any], dict[str, float]] = loop.optimiser_step

    def full_after_four(run: Any, batch: Any) -> dict[str, float]:
        if batch.step == 4:
            limit_file_size(50_000)  # bytes; a checkpoint has 400 000
        return original(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimiser_step", full_after_four)
        try:
            with pytest.raises(UserError, match=r"^disk full while writing .*checkpoint-00000006.pt: free space"):
                train(recipe, dataset, parts, device="cpu")
        finally:
            limit_file_size(resource.RLIM_INFINITY)
    assert sorted(path.name for path in parts.iterdir()) == [
        "checkpoint-00000003.pt",
        "last.json",
        "log.jsonl",
        "run.lock",
    ]
    assert last(parts)["step"] == 3
    train(recipe, dataset, parts, device="cpu", resume=True)
    assert_same_state(last(tmp_path / "whole"), last(parts))


def state_of(step: int) -> dict[str, Any]:
    return {"recipe": {}, "step": step, "weight": torch.full((1000,), float(step))}


def save_killed_at_line(number: int, folder: Path, step: int) -> bool:
    """Whether a child that saves ``step`` ran through ``number`` lines of our code and got its SIGKILL there."""
    child = os.fork()
    if child == 0:
        left = number

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename in (checkpoint.__file__, atomic_files.__file__):
                left -= event == "line"
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            checkpoint.save(folder, step, state_of(step), keep=1)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a step made again"])
def test_sigkill_at_any_line_of_a_save_leaves_a_complete_checkpoint(again: bool, stride: int, tmp_path: Path) -> None:
    found, number, folder = [], 0, tmp_path / "run"
    while True:
        folder.mkdir()
        checkpoint.save(folder, 1, state_of(1))
        if again:  # fallen back from a damaged one
            checkpoint.save(folder, 2, state_of(2))
            (folder / checkpoint.file_name(2)).write_bytes(b"damaged")
        killed = save_killed_at_line(number, folder, 2)
        said: list[str] = []
        state = checkpoint.load_last(folder, said.append)
        assert state is not None
        assert (state["weight"] == state["step"]).all()
        assert not said or (again and state["step"] == 1)
        found.append(state["step"])
        checkpoint.save(folder, 3, state_of(3), keep=1)
        assert sorted(path.name for path in folder.iterdir()) == [checkpoint.file_name(3), "last.json"]
        shutil.rmtree(folder)
        if not killed:
            break
        number += stride
    assert number > 40
    assert found == sorted(found)
    assert set(found) == {1, 2}


def run_with_checkpoints(folder: Path) -> list[Path]:
    """A finished run of ten steps that keeps four checkpoints."""
    add_tiny_architecture()
    train(tiny("simsiam", keep_checkpoints=4), open_dataset(PHOTOS), folder, device="cpu")
    return sorted(folder.glob("checkpoint-*.pt"))


def resume(folder: Path, *, resume: bool = True) -> Path:
    return train(tiny("simsiam", keep_checkpoints=4), open_dataset(PHOTOS), folder, device="cpu", resume=resume)


def test_where_every_checkpoint_is_damaged_nothing_is_started_over(tmp_path: Path) -> None:
    files = run_with_checkpoints(tmp_path)
    for path in files:
        path.write_bytes(path.read_bytes()[:1000])
    for again in (True, False):
        with pytest.raises(UserError, match="every checkpoint is damaged or gone: restore one"):
            resume(tmp_path, resume=again)
    assert sorted(tmp_path.glob("checkpoint-*.pt")) == files


@pytest.mark.parametrize("text", ["", "{}", "null", '["a"]', '[{"file": 3, "sha256": ""}]', "\0\0"])
def test_a_damaged_pointer_is_one_line_and_without_it_the_run_goes_on(text: str, tmp_path: Path) -> None:
    files = run_with_checkpoints(tmp_path)
    whole = last(tmp_path)
    (tmp_path / "last.json").write_text(text)
    with pytest.raises(UserError, match=r"last.json is damaged: remove it"):
        resume(tmp_path)
    (tmp_path / "last.json").unlink()
    files[-1].write_bytes(b"damaged")
    with pytest.raises(UserError, match="add --resume"):
        resume(tmp_path, resume=False)
    resume(tmp_path)
    assert_same_state(whole, last(tmp_path))


def test_any_damage_of_a_checkpoint_file_is_one_line(tmp_path: Path) -> None:
    path, draw, said = run_with_checkpoints(tmp_path)[-1], random.Random(0), []
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(20):
            data[draw.randrange(3000)] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            checkpoint.read(path)
        except UserError as error:
            said.append(str(error))
    assert len(said) > 30
    assert not any("\n" in line for line in said)


def test_a_folder_takes_one_run_at_a_time_and_its_removal_is_one_line(tmp_path: Path) -> None:
    """The other run is a process of its own; where it is killed, the folder is free again."""
    folder = tmp_path / "run"
    script = "import sys, time; from pathlib import Path; from zoo.system import atomic_files\n"
    script += "with atomic_files.locked(Path(sys.argv[1])) as alone: print(alone, flush=True); time.sleep(60)"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", script, str(folder / "run.lock")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"True"
        with pytest.raises(UserError, match="another process is training into"):
            run_with_checkpoints(folder)
        other.kill()
    assert run_with_checkpoints(folder)


def test_a_folder_removed_while_the_run_goes_on_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[[Any, Any], dict[str, float]] = loop.optimiser_step

    def removing(run: Any, batch: Any) -> dict[str, float]:
        if batch.step == 4:
            shutil.rmtree(run.folder)
        return original(run, batch)

    monkeypatch.setattr(loop, "optimiser_step", removing)
    with pytest.raises(UserError, match="run was removed while the run wrote into it"):
        run_with_checkpoints(tmp_path / "run")


def test_weights_that_an_update_made_infinite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[[Any, Any], dict[str, float]] = loop.optimiser_step

    def overflowing(run: Any, batch: Any) -> dict[str, float]:
        values = original(run, batch)
        if batch.step == 5:
            next(run.method.parameters()).data[0] = torch.inf
        return values

    monkeypatch.setattr(loop, "optimiser_step", overflowing)
    with pytest.raises(UserError, match="the update of step 5 made weights that are not finite"):
        run_with_checkpoints(tmp_path)
    assert last(tmp_path)["step"] == 3
