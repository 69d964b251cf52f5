"""Days on which the machine is short of something, its clock is wrong, or its file system can do less than others."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from extraction_driver import assert_tidy, results, run
from pictures import fill

from zoo.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from zoo.system import atomic_files, shortage
from zoo.transforms import upright_rgb

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", 8)


def extract(out: Path, *more: str, limit: tuple[int, int] | None = None) -> subprocess.CompletedProcess[str]:
    """``zoo extract`` of the example photographs in a process with a limit of ``resource``."""
    words = [sys.executable, "-m", "zoo", "extract", "--images", str(PHOTOS), "--out", str(out), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(limit[0], (limit[1], limit[1]))

    return subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment, preexec_fn=limited)


@pytest.mark.parametrize("megabytes", [450, pytest.param(600, marks=pytest.mark.slow)])
def test_too_little_memory_is_one_line_and_the_run_goes_on_with_more(tmp_path: Path, megabytes: int) -> None:
    out = tmp_path / "out"
    short = extract(out, "--backend", "torch", limit=(resource.RLIMIT_AS, megabytes << 20))
    assert (short.returncode, short.stderr.count("\n")) == (EXIT_USER_ERROR, 1), short.stderr
    assert "out of memory" in short.stderr
    whole = extract(out, "--backend", "torch")
    assert whole.returncode == EXIT_OK, whole.stderr
    assert_tidy(out)


def test_sixty_four_open_files_are_enough(tmp_path: Path) -> None:
    done = extract(tmp_path / "out", "--workers", "48", limit=(resource.RLIMIT_NOFILE, 64))
    assert done.returncode == EXIT_OK, done.stderr


@pytest.mark.parametrize("failing", ["open", "scandir"])
def test_too_few_files_stop_the_run_and_are_not_the_fault_of_an_image(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    original: Callable[..., object] = getattr(os, failing)

    def refuse(path: Any, *arguments: object, **options: object) -> object:
        if os.fsencode(path).startswith(os.fsencode(images / "a")):
            raise OSError(errno.EMFILE, "Too many open files")
        return original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, refuse)
        with pytest.raises(UserError, match="too many open files: raise the limit"):
            run(images, tmp_path / "out")
    assert run(images, tmp_path / "out").failed == {}


def test_memory_that_is_short_while_an_image_is_decoded_stops_the_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(image: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(upright_rgb, "_upright", short)
        patch.setattr(shortage, "_SPARE", 1 << 62)
        with pytest.raises(UserError, match="out of memory"):
            run(images, tmp_path / "out")
    assert run(images, tmp_path / "out").failed == {}


@pytest.mark.parametrize("seconds", [-(10**9), 0, 4 * 10**9])
def test_times_of_files_in_the_past_and_in_the_future(images: Path, tmp_path: Path, seconds: int) -> None:
    """A clock that was wrong when the files were written, or is wrong now: nothing compares a time with now."""
    out = tmp_path / "out"
    for path in images.rglob("*"):
        os.utime(path, (seconds, seconds))
    run(images, out)
    before = results(out)
    for path in [out, *out.rglob("*")]:
        os.utime(path, (-seconds, -seconds))
    again = run(images, out, update=True)
    assert (again.reused, results(out)) == (8, before)
    next(images.glob("*.jpeg")).touch()  # earlier than what was recorded, or later
    assert run(images, out, update=True).ok == 8


def test_a_file_system_that_does_not_rename_over_a_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(old: Any, new: Any) -> None:
        raise FileExistsError(errno.EEXIST, "File exists", os.fspath(old), None, os.fspath(new))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"the file system of .*result does not replace a file by a rename"):
        atomic_files.atomic_write_bytes(tmp_path / "result", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=[False, True], ids=["no hard links", "no rename over a file"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    """A mounted ``limited_file_system``, and whether it refuses to replace files."""
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError):
        pytest.skip("needs mfusepy and libfuse")
    (tmp_path / "root").mkdir()
    (tmp_path / "at").mkdir()
    words = [ROOT / "tests" / "limited_file_system.py", tmp_path / "root", tmp_path / "at", int(request.param)]
    server = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while not os.path.ismount(tmp_path / "at"):
        if server.poll() is not None or time.monotonic() > until:
            server.kill()
            pytest.skip("FUSE cannot mount here")
        time.sleep(0.05)
    yield tmp_path / "at", request.param
    subprocess.run(["umount", str(tmp_path / "at")], check=True)
    server.wait(20)


@pytest.mark.slow
def test_a_mounted_file_system_that_can_do_less(mounted: tuple[Path, bool], images: Path, tmp_path: Path) -> None:
    folder, refuses = mounted
    run(images, folder / "out")
    run(images, tmp_path / "out")
    assert results(folder / "out") == results(tmp_path / "out")
    (images / "new.jpeg").write_bytes(next(images.glob("*.jpeg")).read_bytes())
    if refuses:
        with pytest.raises(UserError, match="does not replace a file by a rename"):
            run(images, folder / "out", update=True)
        return
    run(images, folder / "out", update=True)
    run(images, tmp_path / "out", update=True)
    assert results(folder / "out") == results(tmp_path / "out")
