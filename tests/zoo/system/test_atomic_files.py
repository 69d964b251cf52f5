from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from zoo.errors import UserError
from zoo.system import atomic_files


def test_atomic_write_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result"
    for text in ("one", "two"):
        atomic_files.atomic_write_text(path, text)
        assert path.read_text() == text
    assert os.listdir(tmp_path) == ["result"]


def test_a_written_file_has_the_rights_the_umask_gives(tmp_path: Path) -> None:
    atomic_files.atomic_write_bytes(tmp_path / "result", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "result").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: type) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    path = tmp_path / "result"
    atomic_files.atomic_write_bytes(path, b"old")
    with pytest.raises(error):
        atomic_files.atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result"]


def test_bytes_are_durable_before_they_have_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    atomic_files.atomic_write_bytes(tmp_path / "result", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, the rename, the folder


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "disk full"), (errno.EACCES, "cannot write"), (errno.EROFS, "cannot write")],
)
def test_what_the_machine_refuses_is_one_line(tmp_path: Path, number: int, said: str) -> None:
    def write(file: BinaryIO) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match=said) as caught:
        atomic_files.atomic_write(tmp_path / "result", write)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        path = tmp_path / "result"
        atomic_files.atomic_write_bytes(path, b"old")
        with pytest.raises(UserError, match="disk full"):
            atomic_files.atomic_write_bytes(path, bytes(1_000_000))
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["result"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_one_of_many_creators_wins_and_its_bytes_stay(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    texts = [bytes([i]) * 10_000 for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda text: atomic_files.create_exclusively(path, text), texts))
    assert sum(won) == 1
    assert path.read_bytes() == texts[won.index(True)]
    assert os.listdir(tmp_path) == ["plan"]


def test_without_hard_links_one_creator_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert atomic_files.create_exclusively(tmp_path / "plan", b"first")
    assert not atomic_files.create_exclusively(tmp_path / "plan", b"second")
    assert (tmp_path / "plan").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["plan"]


def test_temporaries_are_swept_by_what_they_were_meant_for(tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()

    def leave_a_copy(file: BinaryIO) -> None:  # what a killed writer leaves behind
        (name,) = (name for name in os.listdir(scratch) if "left" not in name)
        stem, unique, end = name.rsplit(".", 2)
        (scratch / f"{stem}.left{unique}.{end}").touch()

    for name in ("shard.1", "shard.2"):
        atomic_files.atomic_write(tmp_path / name, leave_a_copy, scratch=scratch)
    assert len(os.listdir(scratch)) == 2
    atomic_files.remove_temporaries(scratch, {"shard.1"})
    (left,) = os.listdir(scratch)
    assert left.startswith("shard.2.")
    atomic_files.remove_temporaries(scratch)
    assert os.listdir(scratch) == []


def test_move_says_whether_there_was_something_to_move(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    assert atomic_files.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    assert not atomic_files.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"


def test_lines_of_many_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [str(i) * 200 for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: atomic_files.append_line(path, line), lines))
    assert sorted(path.read_text().splitlines()) == sorted(lines)


def test_a_folder_where_a_file_is_wanted_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another"):
        atomic_files.make_folder(tmp_path / "file")
    with pytest.raises(UserError, match="choose another"):
        atomic_files.make_folder(tmp_path / "file" / "below")


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 5000)
    assert atomic_files.sha256_file(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 5000).hexdigest()


def test_a_tree_is_removed_and_so_is_what_a_killed_removal_left(tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree.0123.tmp" / "deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    atomic_files.remove_tree(tmp_path / "tree")
    atomic_files.remove_tree(tmp_path / "absent")
    assert os.listdir(tmp_path) == ["other"]


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_a_folder_that_another_process_removes_meanwhile_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """The folder is gone before mkdir looks at it again, or its parent is gone before mkdir uses it."""
    mkdir, calls = Path.mkdir, iter(range(100))

    def disturbed(self: Path, *arguments: Any, **options: Any) -> None:
        if next(calls) < 3:
            raise error(self)
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", disturbed)
    atomic_files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"link is a file, not a folder: choose another path"):
        atomic_files.make_folder(tmp_path / "link")


def test_a_copied_folder_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """shutil.copytree gathers its errors into one whose number is lost."""
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    for name in ("a", "below/b", "below/c"):
        (source / name).write_bytes(bytes(5000))
    atomic_files.copy_tree(source, tmp_path / "whole")
    assert (tmp_path / "whole" / "below" / "c").stat().st_mtime_ns == (source / "below" / "c").stat().st_mtime_ns
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk: Python ignores SIGXFSZ
    try:
        with pytest.raises(UserError, match=r"^disk full while writing [^\n]*: free space"):
            atomic_files.copy_tree(source, tmp_path / "copy")
        with pytest.raises(UserError, match=r"^disk full while writing [^\n]*: free space"):
            atomic_files.create_folder_exclusively(tmp_path / "new", partial(atomic_files.copy_tree, source))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["copy", "source", "whole"]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for name in ("pipe", "null"):
        with pytest.raises(UserError, match=r"is a device, a pipe or a socket, not a file: choose another path"):
            atomic_files.atomic_write_bytes(tmp_path / name, b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["null", "pipe"]


@pytest.mark.parametrize("name", ["日" * 84, "x" * 255, "é" * 127])
def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path: Path, name: str) -> None:
    atomic_files.atomic_write_text(tmp_path / name, "one")
    assert atomic_files.create_exclusively(tmp_path / name[:-1], b"two")
    assert sorted(os.listdir(tmp_path)) == sorted([name, name[:-1]])


def test_a_copied_file_on_a_full_disk_is_one_line_about_the_copy(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(UserError, match=r"^disk full while writing .*copy: free space"):
            atomic_files.copy_file(tmp_path / "source", tmp_path / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
