"""One extraction made by several processes: the bytes of one process, whoever is killed, late or there twice."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from extraction_driver import assert_tidy, finish, results, run, start, start_command
from pictures import encode, fill, picture

from zoo.errors import EXIT_OK, EXIT_SOME_FAILED, EXIT_USER_ERROR, UserError
from zoo.extraction import extract
from zoo.extraction.partition import Partition
from zoo.system.file_locks import one_at_a_time

ROOT = Path(__file__).parents[2]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", 20)  # four shards


@pytest.fixture
def expected(images: Path, tmp_path: Path) -> dict[str, str]:
    run(images, tmp_path / "undisturbed", format="npy")
    return results(tmp_path / "undisturbed")


def test_one_partition_after_the_other(images: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    out = tmp_path / "out"
    first = run(images, out, format="npy", partition=Partition(0, 3))
    assert (first.total, first.ok, first.shards, first.reused) == (8, 8, 2, 0)
    assert first.missing == {"--shard 1/3": 1, "--shard 2/3": 1}
    assert not (out / "_manifest.json").exists()
    assert os.listdir(out / ".zoo" / "tmp") == []
    last = run(images, out, format="npy", partition=Partition(2, 3))
    assert last.missing == {"--shard 1/3": 1}
    again = run(images, out, format="npy", partition=Partition(0, 3))
    assert (again.reused, again.missing) == (8, {"--shard 1/3": 1})
    end = run(images, out, format="npy", partition=Partition(1, 3))
    assert (end.total, end.shards, end.reused, end.missing) == (20, 4, 14, {})
    assert results(out) == expected
    assert_tidy(out)
    assert run(images, out, format="npy", partition=Partition(0, 3)).reused == 20


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_three_processes_at_once(images: Path, tmp_path: Path, expected: dict[str, str], seconds: float) -> None:
    out = tmp_path / "out"
    processes = [start(images, out, seconds=seconds, format="npy", partition=Partition(i, 3)) for i in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [EXIT_OK] * 3
    assert results(out) == expected, "the last of them has written the manifest"
    assert_tidy(out)


def test_two_runs_of_all_and_a_partition_race_for_one_folder(
    images: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    out = tmp_path / "out"
    racing = [start(images, out, format="npy"), start(images, out, format="npy", partition=Partition(1, 2))]
    for process in racing:
        process.join(60)
    assert [process.exitcode for process in racing] == [EXIT_OK] * 2
    assert finish(images, out, format="npy") == EXIT_OK
    assert results(out) == expected


def test_a_partition_that_is_killed_before_any_step_is_run_again(
    images: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    for n in range(1, 60, 3):
        out = tmp_path / f"out{n}"
        run(images, out, format="npy", partition=Partition(1, 2))
        killed = finish(images, out, kill=n, format="npy", partition=Partition(0, 2)) == -signal.SIGKILL
        assert not run(images, out, format="npy", partition=Partition(0, 2)).missing
        assert results(out) == expected
        assert_tidy(out)
        if not killed:
            assert n > 15
            return
    pytest.fail("the command was killed every time: larger n are needed to see it end")


def test_one_of_three_is_killed_in_the_middle_of_a_shard(
    images: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    out = tmp_path / "out"
    slow = start(images, out, seconds=5, format="npy", partition=Partition(0, 3))
    for i in (1, 2):
        assert finish(images, out, format="npy", partition=Partition(i, 3)) == EXIT_OK
    slow.kill()
    slow.join()
    assert not (out / "_manifest.json").exists()
    assert "embeddings-00003.parquet" not in results(out), "killed before the end of its partition"
    assert finish(images, out, format="npy", partition=Partition(0, 3)) == EXIT_OK
    assert results(out) == expected
    assert_tidy(out)


def test_a_damaged_shard_of_another_partition_holds_the_manifest_back(
    images: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    out = tmp_path / "out"
    run(images, out, format="npy", partition=Partition(1, 2))
    (out / "embeddings-00001.npy").write_bytes(b"other")
    result = run(images, out, format="npy", partition=Partition(0, 2))
    assert result.missing == {"--shard 1/2": 1}
    assert result.notes == ("embeddings-00001.parquet does not go with embeddings-00001.npy: run --shard 1/2 again",)
    assert not (out / "_manifest.json").exists()
    run(images, out, format="npy", partition=Partition(1, 2))
    assert results(out) == expected


def test_more_processes_than_shards(images: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    out = tmp_path / "out"
    idle = run(images, out, format="npy", partition=Partition(7, 8))
    assert (idle.total, idle.shards, sum(idle.missing.values())) == (0, 0, 4)
    for i in range(8):
        run(images, out, format="npy", partition=Partition(i, 8))
    assert results(out) == expected


def test_another_shard_size_is_another_plan(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out", partition=Partition(0, 2))
    with pytest.raises(UserError, match=r"differs in shard_size 6 there, 5 now"):
        run(images, tmp_path / "out", partition=Partition(1, 2), shard_size=5)


def test_an_update_is_divided_too(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    (images / "03_new.png").write_bytes(encode(picture(seed=50), "PNG"))
    (images / "00.jpeg").write_bytes(encode(picture(seed=51), "JPEG"))
    shutil.copytree(out, tmp_path / "undisturbed")
    run(images, tmp_path / "undisturbed", update=True)
    before = results(out)
    assert run(images, out, update=True, partition=Partition(1, 2)).missing == {"--shard 0/2": 2}
    assert results(out) == before, "the old result stands until the new one is whole"
    processes = [start(images, out, update=True, partition=Partition(i, 2)) for i in (0, 1, 0)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [EXIT_OK] * 3
    assert results(out) == results(tmp_path / "undisturbed")
    assert_tidy(out)


def test_another_run_installs_the_update_that_this_one_has_planned(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan that this run has read is gone, and with it all rows: it must look again, not embed them all anew."""
    out = tmp_path / "out"
    run(images, out)
    (images / "03_new.png").write_bytes(encode(picture(seed=50), "PNG"))
    find_changes = extract.find_changes
    others = []

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(extract, "find_changes", find_changes)
        others.append(run(images, out, update=True))
        return find_changes(*arguments)

    monkeypatch.setattr(extract, "find_changes", overtaken)
    result = run(images, out, update=True, partition=Partition(0, 2))
    assert [other.reused > 0 for other in others] == [True]
    assert (result.missing, result.total) == ({}, others[0].total)
    assert (out / "_manifest.json").exists()
    assert_tidy(out)


def test_two_runs_install_the_same_update_at_once(images: Path, tmp_path: Path) -> None:
    """A run that waits for its turn must not remove the manifest that the other one has put in place."""
    out = tmp_path / "out"
    run(images, out)
    (images / "03_new.png").write_bytes(encode(picture(seed=50), "PNG"))
    with one_at_a_time(out / ".zoo"):
        waiting = [start(images, out, update=True) for _ in range(2)]
        until = time.monotonic() + 60
        while not (out / ".zoo" / "next" / "_manifest.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
    for process in waiting:
        process.join(60)
    assert [process.exitcode for process in waiting] == [EXIT_OK] * 2
    assert (out / "_manifest.json").exists()
    assert_tidy(out)


def command(images: Path, out: Path, model: Path, *options: str) -> list[str]:
    return ["extract", "--images", str(images), "--out", str(out), "--model", str(model), "--batch-size", "2",
            "--shard-size", "4", "--device", "cpu", "--backend", "torch", *options]  # fmt: skip


def test_torchrun_and_the_command(images: Path, tmp_path: Path, random_weights: Path) -> None:
    (images / "bad.jpg").write_bytes(b"bad")  # whoever ends last must not end the other rank with its exit code
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def of_zoo(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *launcher, "-m", "zoo", *arguments]
        return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)

    ranks = of_zoo(
        *command(images, tmp_path / "ranks", random_weights),
        launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"),
    )
    assert ranks.returncode == EXIT_OK, ranks.stderr
    assert "bad.jpg: " in ranks.stderr
    log = [json.loads(line) for line in (tmp_path / "ranks" / "_run.log.jsonl").read_text().splitlines()]
    assert {line["share"] for line in log} == {"rank 0 of 2", "rank 1 of 2"}
    refused = start_command(tmp_path / "log", *command(images, tmp_path / "ranks", random_weights, "--shard", "2/2"))
    refused.join(60)
    assert (refused.exitcode, (tmp_path / "log").read_text().count("\n")) == (EXIT_USER_ERROR, 1)

    one = start_command(tmp_path / "log", *command(images, tmp_path / "one", random_weights, "--shard", "0/1"))
    one.join(60)
    assert one.exitcode == EXIT_SOME_FAILED, (tmp_path / "log").read_text()
    assert results(tmp_path / "ranks") == results(tmp_path / "one")
    assert_tidy(tmp_path / "ranks")


@pytest.mark.slow
def test_a_rank_of_torchrun_is_killed_and_the_disk_is_full(images: Path, tmp_path: Path, random_weights: Path) -> None:
    """The group ends with the rank that is lost, and is run again with the same words, beside a plain run too."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "-m",
        "zoo",
    ]

    def begin(out: Path, launcher: list[str] = launcher, largest_file: int = -1) -> subprocess.Popen[str]:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        words = [*launcher, *command(images, out, random_weights)]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=limit)

    assert begin(tmp_path / "one", [sys.executable, "-m", "zoo"]).wait(300) == EXIT_OK
    expected = results(tmp_path / "one")

    out = tmp_path / "killed"
    group = begin(out)
    while not list(out.glob("embeddings-*")):
        assert group.poll() is None, group.communicate()
        time.sleep(0.002)
    ranks = [int(pid) for pid in Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()]
    os.kill(ranks[0], signal.SIGKILL)
    group.communicate(timeout=300)
    again = [begin(out), begin(out, [sys.executable, "-m", "zoo"])]
    for process in again:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == EXIT_OK, errors
    assert results(out) == expected

    out = tmp_path / "full"
    group = begin(out, largest_file=8_000)  # a shard has 8 192 bytes of vectors
    _, errors = group.communicate(timeout=300)
    assert group.returncode != EXIT_OK
    assert "zoo: error: disk full while writing " in errors
    group = begin(out)
    _, errors = group.communicate(timeout=300)
    assert group.returncode == EXIT_OK, errors
    assert results(out) == expected
    assert_tidy(out)
