"""Extraction under SIGKILL, Ctrl-C, a second run, and a full disk: the same bytes in the end, nothing left behind."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from extraction_driver import PixelMeans, assert_tidy, finish, results, run, start
from pictures import encode, fill, picture

from zoo.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR, UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", 8)


def grow(images: Path) -> None:
    """One added, one changed, one removed."""
    (images / "03_new.png").write_bytes(encode(picture(seed=50), "PNG"))
    (images / "00.jpeg").write_bytes(encode(picture(seed=51), "JPEG"))
    (images / "a" / "b" / "05.webp").unlink()


def test_killed_at_fifty_moments_the_result_is_the_same(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "undisturbed")
    expected = results(tmp_path / "undisturbed")
    seconds = []
    for name in ("first", "second", "third"):  # the first one may start the server
        started = time.monotonic()
        assert finish(images, tmp_path / name, seconds=0.005) == EXIT_OK
        seconds.append(time.monotonic() - started)
    moments = random.Random(0)
    kills = 0
    for attempt in itertools.count():
        out = tmp_path / f"out{attempt}"
        while kills < 50:
            process = start(images, out, seconds=0.005)
            process.join(moments.uniform(0, min(seconds)))
            process.kill()
            process.join()
            if process.exitcode == EXIT_OK:
                break
            kills += 1
        assert run(images, out).ok == 8
        assert results(out) == expected
        assert_tidy(out)
        if kills == 50:
            return


def test_killed_before_every_step_of_a_run_the_result_is_the_same(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "undisturbed", format="npy")
    expected = results(tmp_path / "undisturbed")
    for n in itertools.count(1):
        out = tmp_path / f"out{n}"
        killed = finish(images, out, kill=n, format="npy") == -signal.SIGKILL
        assert run(images, out, format="npy").ok == 8
        assert results(out) == expected
        assert_tidy(out)
        if not killed:
            assert n > 20, "the steps are those of every file: fsync, rename, fsync of the folder"
            return


def test_killed_before_every_step_of_an_update_the_result_is_the_same(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "before", format="npy")
    grow(images)
    shutil.copytree(tmp_path / "before", tmp_path / "undisturbed")
    run(images, tmp_path / "undisturbed", format="npy", update=True)
    expected = results(tmp_path / "undisturbed")
    for n in itertools.count(1):
        out = tmp_path / f"out{n}"
        shutil.copytree(tmp_path / "before", out)
        killed = finish(images, out, kill=n, format="npy", update=True) == -signal.SIGKILL
        moving = (out / ".zoo" / "next" / "_manifest.json").exists()
        # a finished update is moved into place by any command; an unfinished one wants to be asked for again
        assert run(images, out, format="npy", update=not moving).ok == 8
        assert results(out) == expected
        assert_tidy(out)
        if not killed:
            assert n > 40
            return


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_a_run_with_outputs_killed_at_any_step_ends_in_the_same_bytes(
    images: Path, tmp_path: Path, format: str
) -> None:
    options: dict[str, Any] = {"format": format, "stages": True}
    assert finish(images, tmp_path / "whole", **options) == 0
    for n in range(6, 70, 15):
        out = tmp_path / f"out{n}"
        killed = finish(images, out, kill=n, **options) == -signal.SIGKILL
        assert run(images, out, format=format, embedder=PixelMeans(stages=True)).ok == 8
        assert results(out) == results(tmp_path / "whole")
        assert_tidy(out)
        if not killed:
            assert n > 15
            return
    pytest.fail("the command was killed every time: larger n are needed to see it end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_soon_and_it_can_be_gone_on_with(
    images: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run(images, tmp_path / "undisturbed")
    out = tmp_path / "out"
    process = start(images, out, seconds=0.3)
    while not (out / "embeddings-00000.parquet").exists():
        time.sleep(0.01)
    sent = time.monotonic()
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode == EXIT_INTERRUPTED
    assert time.monotonic() - sent < 5
    assert not (out / "_manifest.json").exists()
    assert os.listdir(out / ".zoo" / "tmp") == []
    assert '"interrupted"' in (out / "_run.log.jsonl").read_text()
    assert finish(images, out) == EXIT_OK
    assert results(out) == results(tmp_path / "undisturbed")


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_runs_at_once_give_the_bytes_of_one(images: Path, tmp_path: Path, format: str) -> None:
    run(images, tmp_path / "undisturbed", format=format)
    for attempt in range(3):
        out = tmp_path / f"out{attempt}"
        processes = [start(images, out, seconds=0.005 * i, format=format) for i in range(4)]
        if attempt % 2:
            processes[0].join(0.05)
            processes[0].kill()
        for process in processes:
            process.join(60)
        codes = [process.exitcode for process in processes]
        assert set(codes) <= {EXIT_OK, -signal.SIGKILL}
        assert set(codes[1:]) == {EXIT_OK}
        assert finish(images, out, format=format) == EXIT_OK, "a killed run may have left a temporary file"
        assert results(out) == results(tmp_path / "undisturbed")


def test_updates_at_once_give_the_bytes_of_one(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "before")
    grow(images)
    shutil.copytree(tmp_path / "before", tmp_path / "undisturbed")
    run(images, tmp_path / "undisturbed", update=True)
    for attempt in range(4):
        out = tmp_path / f"out{attempt}"
        shutil.copytree(tmp_path / "before", out)
        processes = [start(images, out, seconds=0.005 * i * (attempt % 3), update=True) for i in range(3)]
        for process in processes:
            process.join(60)
        assert {process.exitcode for process in processes} == {EXIT_OK}
        assert finish(images, out) == EXIT_OK
        assert results(out) == results(tmp_path / "undisturbed")


def test_another_plan_at_the_same_time_is_refused(images: Path, tmp_path: Path) -> None:
    for attempt in range(3):
        out = tmp_path / f"out{attempt}"
        processes = [start(images, out, batch_size=size) for size in (2, 3, 4)]
        for process in processes:
            process.join(60)
        assert sorted(process.exitcode for process in processes) == [EXIT_OK, EXIT_USER_ERROR, EXIT_USER_ERROR]


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(images: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        ballast = disk / "ballast"
        for pages_free in range(12):
            ballast.write_bytes(b"")
            ballast.write_bytes(bytes(65536 - 4096 * pages_free))
            stopped = pages_free
            if finish(images, disk / "out") == EXIT_OK:
                break
            with pytest.raises(UserError, match=r"^disk full while writing [^\n]*$"):
                run(images, disk / "out")
            assert not any((disk / "out").glob(".zoo/tmp/*"))
        assert stopped >= 3
        assert finish(images, disk / "out") == EXIT_OK
        run(images, tmp_path / "undisturbed")
        assert results(disk / "out") == results(tmp_path / "undisturbed")
    finally:
        subprocess.run(["umount", disk], check=True)
