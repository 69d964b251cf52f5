"""The command itself, with a real network: killed, stopped and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from extraction_driver import assert_tidy, results, start_command

from zoo.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USER_ERROR

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


def words(images: Path, out: Path, model: Path, *more: str) -> list[object]:
    return ["extract", "--images", images, "--out", out, "--model", model, "--batch-size", "2", "--shard-size", "4",
            "--device", "cpu", "--backend", "torch", *more]  # fmt: skip


def in_a_process(*words: object) -> subprocess.CompletedProcess[str]:
    """The command as a shell starts it."""
    command = [sys.executable, "-m", "zoo", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def after_a_shard(process: Any, out: Path, number: signal.Signals) -> None:
    """Send the signal as soon as a new shard is in place, and wait for the end."""
    before = len(list(out.glob("*.parquet")))
    while len(list(out.glob("*.parquet"))) == before:
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.join(10)


def test_a_command_that_is_killed_and_stopped_ends_with_the_bytes_of_one_that_is_not(
    tmp_path: Path, random_weights: Path
) -> None:
    images, out, log = tmp_path / "images", tmp_path / "out", tmp_path / "log"
    images.mkdir()
    for photo in PHOTOS.glob("*.jpg"):
        (images / photo.name).write_bytes(photo.read_bytes())
    (images / "bad.jpg").write_bytes(b"bad")
    undisturbed = in_a_process(*words(images, tmp_path / "undisturbed", random_weights))
    assert undisturbed.returncode == EXIT_SOME_FAILED, undisturbed.stderr

    command = words(images, out, random_weights)
    killed = start_command(log, *command)
    after_a_shard(killed, out, signal.SIGKILL)
    assert killed.exitcode == -signal.SIGKILL
    stopped = start_command(log, *command)
    after_a_shard(stopped, out, signal.SIGTERM)
    assert stopped.exitcode == EXIT_INTERRUPTED
    assert "Traceback" not in log.read_text()
    resumed = start_command(log, *command)
    resumed.join(120)
    assert resumed.exitcode == EXIT_SOME_FAILED, log.read_text()
    assert results(out) == results(tmp_path / "undisturbed")
    assert_tidy(out)


@pytest.mark.slow
def test_a_refusal_on_a_busy_machine_ends_with_its_own_code(tmp_path: Path, random_weights: Path) -> None:
    """A thread of Arrow's that held bytes of Python's at the end aborted one in three of such processes."""
    in_a_process(*words(PHOTOS, tmp_path / "out", random_weights))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range((os.cpu_count() or 1) + 1)]
    try:
        for _ in range(6):
            refused = in_a_process(*words(PHOTOS, tmp_path / "out", random_weights, "--normalize"))
            assert (refused.returncode, refused.stderr.count("\n")) == (EXIT_USER_ERROR, 1), refused.stderr
    finally:
        for process in busy:
            process.kill()
            process.wait()
