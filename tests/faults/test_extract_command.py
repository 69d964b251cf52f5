"""The command itself, with a real network: killed, stopped and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from extraction_driver import assert_tidy, results

from zoo.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USER_ERROR

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


def start(images: Path, out: Path, model: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zoo", "extract", "--images", images, "--out", out, "--model", model,
               "--batch-size", "2", "--shard-size", "4", "--device", "cpu",
               "--backend", "torch", *more]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def after_a_shard(process: subprocess.Popen[str], out: Path, number: signal.Signals) -> str:
    """Send the signal as soon as a new shard stands; what the process had to say."""
    before = len(list(out.glob("*.parquet")))
    while len(list(out.glob("*.parquet"))) == before:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    return errors


def test_a_command_that_is_killed_and_stopped_ends_with_the_bytes_of_one_that_is_not(
    tmp_path: Path, random_weights: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for photo in PHOTOS.glob("*.jpg"):
        (images / photo.name).write_bytes(photo.read_bytes())
    (images / "bad.jpg").write_bytes(b"bad")

    undisturbed = start(images, tmp_path / "undisturbed", random_weights)
    _, errors = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == EXIT_SOME_FAILED, errors

    out = tmp_path / "out"
    killed = start(images, out, random_weights)
    after_a_shard(killed, out, signal.SIGKILL)
    stopped = start(images, out, random_weights)
    errors = after_a_shard(stopped, out, signal.SIGTERM)
    assert stopped.returncode == EXIT_INTERRUPTED
    assert "Traceback" not in errors
    resumed = start(images, out, random_weights)
    resumed.communicate(timeout=120)
    assert resumed.returncode == EXIT_SOME_FAILED
    assert results(out) == results(tmp_path / "undisturbed")
    assert_tidy(out)


@pytest.mark.slow
def test_a_refusal_on_a_busy_machine_ends_with_its_own_code(tmp_path: Path, random_weights: Path) -> None:
    """A thread of Arrow's that held bytes of Python's at the end aborted one in three of such processes."""
    start(PHOTOS, tmp_path / "out", random_weights).communicate(timeout=300)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range((os.cpu_count() or 1) + 1)]
    try:
        for _ in range(6):
            refused = start(PHOTOS, tmp_path / "out", random_weights, "--normalize")
            _, errors = refused.communicate(timeout=300)
            assert (refused.returncode, errors.count("\n")) == (EXIT_USER_ERROR, 1), errors
    finally:
        for process in busy:
            process.kill()
            process.wait()
