"""Commands under a limit of addresses (``ulimit -v``): one last line and exit code 2, and a run without it completes.

The limits are near those at which libraries once ended the process (SIGSEGV of ``zoo index``, std::terminate in
``zoo cat``, ``exit(1)`` of OpenBLAS in ``zoo search``), printed a traceback or blamed a whole file.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from extraction_driver import run as extract
from faults.test_kill_campaign import COMMANDS, EXTRACT, MODEL, PHOTOS, ROOT
from pictures import fill

from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of addresses hold on Linux")
SHORT = ("memory", "thread")


def command(folder: Path, words: tuple[str, ...], megabytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if megabytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / ".home")}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder, capture_output=True, text=True, timeout=600, env=environment, preexec_fn=limited,
    )  # fmt: skip


def assert_ends_well(folder: Path, words: tuple[str, ...], megabytes: int, again: tuple[str, ...] = ()) -> bool:
    """Run the command with the limit, and again without; return whether the limit was too low."""
    short = command(folder, words, megabytes)
    if short.returncode == EXIT_OK:
        return False
    assert short.returncode == EXIT_USER_ERROR, (megabytes, short)
    last = short.stderr.strip().splitlines()[-1]
    assert "error: " in last, short.stderr
    assert any(word in last for word in SHORT), short.stderr
    assert "Traceback" not in short.stderr, short.stderr
    whole = command(folder, (*words, *again) if (folder / "run" / "last.json").exists() else words)
    assert whole.returncode == EXIT_OK, whole.stderr
    return True


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        (("zoo", "verify", "out"), (240,)),
        (("zoo", "cat", "out", "all.npy"), (264, 272)),
        (("zoo", "index", "out"), (262, 282)),
    ],
    ids=lambda value: value[1] if isinstance(value[0], str) else "",
)
def test_commands_on_a_result(tmp_path: Path, words: tuple[str, ...], limits: tuple[int, ...]) -> None:
    """Each limit ends well. A version of Python or a library may need less: then a lower limit is tried as well."""
    extract(fill(tmp_path / "images", 8), tmp_path / "begin" / "out")
    short, lowest = [], limits[0]
    for megabytes in limits:
        short.append(_is_short(tmp_path, words, megabytes))
    while not any(short):
        lowest -= 24
        assert lowest > 100, "no limit was too low"
        short.append(_is_short(tmp_path, words, lowest))


def _is_short(folder: Path, words: tuple[str, ...], megabytes: int) -> bool:
    shutil.copytree(folder / "begin", folder / str(megabytes))
    return assert_ends_well(folder / str(megabytes), words, megabytes)


GROWN = (EXTRACT, ("grow",))
SLOW: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[str, ...], range]] = {
    "train": ((), COMMANDS["train"].words, range(600, 4400, 400)),
    "evaluate": ((), COMMANDS["evaluate"].words, range(700, 4400, 400)),
    "export": ((), COMMANDS["export"].words, range(800, 4400, 400)),
    "publish": ((), ("zoo", "publish", MODEL, "--repo", "o/m", "--no-int8", "--dry-run", "pub"), range(900, 4400, 700)),
    "convert": ((("weights",),), ("zoo", "convert", "r18.pth", "--from", "torch", "--out", "conv"),
                range(650, 4400, 700)),
    "search": ((EXTRACT, ("zoo", "index", "out")), ("zoo", "search", "out", "images/cat_kitten.jpg"),
               range(240, 700, 40)),
    "dedupe": ((), (*EXTRACT, "--dedupe"), range(260, 700, 60)),
    "update": (GROWN, (*EXTRACT, "--update"), range(270, 700, 60)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_stage(tmp_path: Path, name: str) -> None:
    before, words, limits = SLOW[name]
    begin = tmp_path / "begin"
    shutil.copytree(PHOTOS, begin / "images", ignore=shutil.ignore_patterns("*.md"))
    for number, photo in enumerate(sorted((begin / "images").glob("*.jpg"))[:20]):
        target = begin / "labelled" / ("test" if number % 4 == 0 else "train") / f"class{number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, target)
    for each in before:
        if each == ("grow",):
            shutil.copy(begin / "images" / "cat_kitten.jpg", begin / "images" / "cat_again.jpg")
        elif each == ("weights",):
            import torch
            import torchvision

            torch.save(torchvision.models.resnet18().state_dict(), begin / "r18.pth")
        else:
            assert command(begin, each).returncode == EXIT_OK
    held = []
    for megabytes in limits:
        folder = tmp_path / str(megabytes)
        shutil.copytree(begin, folder)
        held.append(assert_ends_well(folder, words, megabytes, ("--resume",) if name == "train" else ()))
        shutil.rmtree(folder)
        if not held[-1]:
            break
    assert held[0], "the lowest limit must be too low"


ENDS = """
import ctypes, os, signal, sys, time, typer
from zoo.cli.app import new_app, run
app = new_app("test")
@app.command()
def go(end: str) -> int:
    if end == "abort":
        os.abort()
    if end == "exit":
        ctypes.CDLL(None).exit(1)
    if end == "memory":
        kept = []
        while True:
            kept.append(bytes(1 << 20 if len(kept) < 4000 else 1000))
    if end == "wait":
        print("waits", flush=True)
        time.sleep(60)
    if end == "bug":
        raise ValueError("bug")
    return int(end)
run(app, "zoo", resume_hint="again")
"""


def start(how: str, limited: bool = True) -> subprocess.Popen[str]:
    def limit() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
        if limited:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    words = [sys.executable, "-c", ENDS, "go", how]
    return subprocess.Popen(words, stdout=-1, stderr=-1, text=True, preexec_fn=limit)


@pytest.mark.parametrize("how", ["abort", "exit", "memory"])
def test_a_library_that_ends_the_process_is_one_line_under_a_limit(how: str) -> None:
    process = start(how)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error.count("\n")) == (EXIT_USER_ERROR, 1), error
    assert "out of memory" in error
    assert "what was finished is kept" in error


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize(("how", "code"), [("0", 0), ("3", 3), ("bug", 1)])
def test_a_limit_changes_no_other_end(how: str, code: int, limited: bool) -> None:
    process = start(how, limited)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code
    assert ("ValueError: bug" in error) == (how == "bug")


def test_without_a_limit_an_abort_is_an_abort() -> None:
    process = start("abort", limited=False)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGABRT


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[str]]:
    process = start("wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_command(waiting: subprocess.Popen[str], number: int) -> None:
    waiting.send_signal(number)
    _, error = waiting.communicate(timeout=120)
    assert (waiting.returncode, error) == (EXIT_INTERRUPTED, "zoo: interrupted: again\n")


def test_a_kill_ends_both_processes(waiting: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text().split()
    assert len(children) == 1
    waiting.kill()
    waiting.wait(60)
    until = time.monotonic() + 60
    while Path(f"/proc/{children[0]}").exists() and "Z" not in _state(children[0]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{children[0]}").exists() or "Z" in _state(children[0])


def _state(process: str) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
