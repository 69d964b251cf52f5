"""A run's folder under a full disk, a SIGKILL at any moment of a save, damage, a second run, and its removal."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tiny_runs import after_step, assert_same_state, last, one_thread, tiny

from training.engine import checkpoint, opening
from training.engine.loop import train
from training.methods import Method, SimSiam, StepInfo, build_method
from training.results.export import export
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.system import atomic_files

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


def start(folder: Path, *, resume: bool = False) -> Path:
    """A run of six steps, with checkpoints after the third and the last."""
    return train(tiny("simsiam"), open_dataset(PHOTOS), folder, device="cpu", resume=resume)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests take a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    start(folder)
    return folder


@pytest.fixture
def damaged(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(finished, tmp_path / "damaged")
    return tmp_path / "damaged"


def limit_file_size(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        after_step(4, lambda run: limit_file_size(50_000), patch)  # bytes; a checkpoint has 400 000
        try:
            with pytest.raises(UserError, match=r"^disk full while writing .*checkpoint-00000006.pt: free space"):
                start(parts)
        finally:
            limit_file_size(resource.RLIM_INFINITY)
    assert sorted(path.name for path in parts.iterdir()) == [
        "checkpoint-00000003.pt",
        "last.json",
        "log.jsonl",
        "run.lock",
    ]
    assert last(parts)["step"] == 3
    start(parts, resume=True)
    assert_same_state(last(finished), last(parts))


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


def test_where_every_checkpoint_is_damaged_nothing_is_started_over(damaged: Path) -> None:
    files = sorted(damaged.glob("checkpoint-*.pt"))
    for path in files:
        path.write_bytes(path.read_bytes()[:1000])
    for resume in (True, False):
        with pytest.raises(UserError, match="every checkpoint is damaged or missing: restore one"):
            start(damaged, resume=resume)
    assert sorted(damaged.glob("checkpoint-*.pt")) == files


@pytest.mark.parametrize("text", ["", "{}", "null", '["a"]', '[{"file": 3, "sha256": ""}]', "\0\0"])
def test_a_damaged_pointer_is_one_line_and_without_it_the_run_goes_on(text: str, finished: Path, damaged: Path) -> None:
    (damaged / "last.json").write_text(text)
    with pytest.raises(UserError, match=r"last.json is damaged: remove it"):
        start(damaged, resume=True)
    (damaged / "last.json").unlink()
    (damaged / checkpoint.file_name(6)).write_bytes(b"damaged")
    with pytest.raises(UserError, match="add --resume"):
        start(damaged)
    start(damaged, resume=True)
    assert_same_state(last(finished), last(damaged))


def test_any_damage_of_a_checkpoint_file_is_one_line(damaged: Path) -> None:
    path, draw, said = damaged / checkpoint.file_name(6), random.Random(0), []
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
    script = "import sys, time; from pathlib import Path; from zoo.system import file_locks\n"
    script += "with file_locks.locked(Path(sys.argv[1])) as alone: print(alone, flush=True); time.sleep(60)"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", script, str(folder / "run.lock")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"True"
        with pytest.raises(UserError, match="another process is training into"):
            start(folder)
        other.kill()
    assert start(folder)


def test_a_folder_removed_while_the_run_goes_on_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after_step(4, lambda run: shutil.rmtree(run.folder), monkeypatch)
    with pytest.raises(UserError, match="run was removed while the run wrote into it"):
        start(tmp_path / "run")


def test_weights_that_an_update_made_infinite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(method: SimSiam, info: StepInfo) -> None:
        if info.step == 5:
            next(method.parameters()).data[0] = torch.inf

    monkeypatch.setattr(SimSiam, "after_step", overflow)
    with pytest.raises(UserError, match="the update of step 5 made weights that are not finite"):
        start(tmp_path)
    assert last(tmp_path)["step"] == 3


def test_a_run_that_another_one_ended_meanwhile_is_not_started_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has no checkpoint when this one looks, and lets the folder go before this one takes it."""
    folder, calls = tmp_path / "run", []

    def build(*given: Any) -> Method:
        calls.append(given)
        if len(calls) == 1:
            start(folder)
        return build_method(*given)

    monkeypatch.setattr(opening, "build_method", build)
    with pytest.raises(UserError, match=r"another process has trained into .*run meanwhile: start this run again"):
        start(folder)
    assert last(folder)["step"] == 6
    assert '"loss"' in (folder / "log.jsonl").read_text()


@pytest.mark.parametrize(
    "change",
    [{field: None} for field in ("data", "step", "total_steps", "seconds", "hardware", "method")]
    + [{"recipe": []}, {"data": {}}, {"data": {"name": "a", "images": "8"}}, {"step": "6"}, {"method": {}}],
    ids=str,
)
def test_a_file_that_only_looks_like_a_checkpoint_is_one_line(change: dict[str, Any], damaged: Path) -> None:
    newest = damaged / checkpoint.file_name(6)
    (damaged / "last.json").unlink()  # which has its hash
    torch.save({**checkpoint.read(newest), **change}, newest)
    for use in (lambda: start(damaged, resume=True), lambda: export(damaged, damaged / "e.safetensors")):
        with pytest.raises(UserError, match=r"^[^\n]*(incomplete checkpoint|does not fit)[^\n]*$"):
            use()


@pytest.mark.parametrize("optimiser", [None, {}, {"state": {}, "param_groups": []}], ids=str)
def test_an_optimiser_s_state_that_does_not_fit_is_one_line(optimiser: object, damaged: Path) -> None:
    newest = damaged / checkpoint.file_name(6)
    (damaged / "last.json").unlink()
    torch.save({**checkpoint.read(newest), "optimiser": optimiser}, newest)
    with pytest.raises(UserError, match=r"^[^\n]*an optimiser's state that does not fit[^\n]*$"):
        start(damaged, resume=True)
