"""Checkpoints under a full disk, a SIGKILL at any moment of a save, and damage."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tiny_runs import add_tiny_architecture, assert_same_state, last, tiny

from training import checkpoint, loop
from training.loop import train
from zoo import files
from zoo.datasets import open_dataset
from zoo.errors import UserError

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
    assert sorted(path.name for path in parts.iterdir()) == ["checkpoint-00000003.pt", "last.json", "log.jsonl"]
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
            if frame.f_code.co_filename in (checkpoint.__file__, files.__file__):
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
