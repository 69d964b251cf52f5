"""A process holds two row groups of a plan, however many rows it has, and lets go of the listing."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo.embeddings import plan as plan_module
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.plan import Plan
from zoo.sources.base import require_unique
from zoo.sources.file_listing import FILES
from zoo.system.row_groups import RowGroups

FINGERPRINT = Fingerprint({}, dim=3, format="parquet", batch_size=2, shard_size=1024)
TESTS = Path(__file__).parents[2]
_PEAK = """
import re, sys
from pathlib import Path
from zoo.embeddings import plan
plan.ROWS_PER_GROUP = 1 << 14
def growth(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is in memory now
    value = lambda field: int(re.search(rf"{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    before = value("VmRSS")
    work()
    return value("VmHWM") - before
"""
_OPEN = """
def work():
    opened = plan.Plan.load(Path(sys.argv[1]))
    assert len(opened.key) == 64
    for shard in range(0, opened.shards, 50):
        assert len(opened.files_of(opened.rows(shard))) == len(opened.to_compute(shard))
print(growth(work))
"""
_EXTRACT = """
from extraction_driver import run
from zoo.extraction.partition import Partition
def work():
    done = run(sys.argv[1], Path(sys.argv[2]), partition=Partition(0, 100_000), shard_size=1024, workers=1)
    assert done.total == 1024
print(growth(work))
"""


def names(rows: int) -> list[bytes]:
    return [
        b"images/%02x/%032x.jpg" % (row % 256, row * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128) for row in range(rows)
    ]


def numbered(rows: int) -> pa.Table:
    numbers = np.arange(rows) * 7919 % 10**6
    return pa.table([names(rows), numbers, numbers + 10**18], schema=FILES)


def growth(script: str, *words: object) -> int:
    """Bytes by which the memory of a new process grew."""
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + script, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is Linux's")
def test_a_plan_of_five_times_the_rows_takes_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "ROWS_PER_GROUP", 1 << 14)
    few, many = 200_000, 1_000_000
    for rows in (few, many):
        assert Plan.new(FINGERPRINT, numbered(rows)).save(tmp_path / str(rows), tmp_path)
    more = growth(_OPEN, tmp_path / str(many)) - growth(_OPEN, tmp_path / str(few))
    assert more / (many - few) < 20, "bytes for each row; 160 when the whole plan was read"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is Linux's")
def test_an_extraction_holds_the_listing_once(tmp_path: Path) -> None:
    few, many = 100_000, 500_000
    for rows in (few, many):
        (tmp_path / f"{rows}.txt").write_bytes(b"\n".join(names(rows)))
    taken = {rows: growth(_EXTRACT, tmp_path / f"{rows}.txt", tmp_path / f"out{rows}") for rows in (few, many)}
    assert (taken[many] - taken[few]) / (many - few) < 200, "bytes for each row: 66 in the listing; 446 before"


@pytest.mark.parametrize("kept", [False, True])
def test_the_file_is_the_one_that_pyarrow_writes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Earlier versions wrote all rows by one call; with groups of a few rows the same groups come out."""
    monkeypatch.setattr(plan_module, "ROWS_PER_GROUP", 1000)
    files = numbered(2500)
    if kept:
        files = files.append_column("label", pa.array([None if row % 7 == 0 else f"é{row % 9}" for row in range(2500)]))
    Plan.new(FINGERPRINT, files).save(tmp_path / "plan", tmp_path)
    buffer = io.BytesIO()
    table = files.append_column("zoo.reuse", pa.array(np.full(2500, -1)))
    table = table.replace_schema_metadata({b"zoo.identity": FINGERPRINT.canonical()})
    pq.write_table(table, buffer, row_group_size=1000, write_page_checksum=True)
    assert (tmp_path / "plan").read_bytes() == buffer.getvalue()


def test_a_plan_in_row_groups_is_the_plan_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "ROWS_PER_GROUP", 100)
    monkeypatch.setattr(plan_module, "_VALUES_AT_ONCE", 64)  # not in step with the groups
    rows = 1050
    files = numbered(rows).append_column("label", pa.array([row % 5 for row in range(rows)]))
    first = np.where(np.arange(rows) % 10 == 9, np.arange(rows) // 2, -1)
    facts = {
        "zoo.copy_of": pa.array(first, pa.int64()),
        "zoo.sha256": [hashlib.sha256(b"%d" % row).hexdigest() for row in range(rows)],
        "zoo.width": pa.array([None, *range(1, rows)], pa.int32()),
        "zoo.height": pa.array(range(rows), pa.int32()),
    }
    fingerprint = Fingerprint({}, dim=3, format="parquet", batch_size=2, shard_size=96, near_threshold=0.9)
    plan = Plan(fingerprint, files, np.arange(rows) % 3 - 1, pa.table(facts))
    plan.save(tmp_path / "plan", tmp_path)
    loaded = Plan.load(tmp_path / "plan")
    assert loaded is not None
    assert isinstance(loaded._rows, RowGroups)
    assert loaded._rows.groups == 11
    assert (loaded.key, loaded.images, loaded.shards) == (plan.key, rows, 11)
    assert loaded.same_files(files)
    assert not loaded.same_files(files.slice(1))
    assert not loaded.same_files(pa.concat_tables([files.slice(0, rows - 1), files.slice(0, 1)]))
    assert loaded.files.equals(files)
    assert loaded.reuse.tolist() == plan.reuse.tolist()
    assert loaded.first_of_bytes.tolist() == plan.first_of_bytes.tolist()
    for shard in reversed(range(plan.shards)):
        assert loaded.duplicates_in(shard) == plan.duplicates_in(shard)
        assert loaded.to_compute(shard).tolist() == plan.to_compute(shard).tolist()
        assert loaded.files_at(loaded.to_compute(shard)).equals(plan.files_at(plan.to_compute(shard)))
        assert loaded.kept_of(loaded.rows(shard)).equals(plan.kept_of(plan.rows(shard)))
    assert loaded.without_reuse().reuse_of(3).tolist() == [-1] * 96
    # The file stays open: another plan in its place does not mix with it.
    (tmp_path / "plan").unlink()
    Plan.new(fingerprint, numbered(5), pa.table(facts).slice(0, 5)).save(tmp_path / "plan", tmp_path)
    assert loaded.files_of(range(1000, 1050)).equals(files.slice(1000))


def test_the_name_that_stands_twice_is_found_among_equal_hashes() -> None:
    files = numbered(3000)
    assert require_unique(files, "x") is files
    twice = pa.concat_tables([files, files.slice(2000, 1), files.slice(7, 1)])
    with pytest.raises(Exception, match=names(8)[7].decode()):
        require_unique(twice, "x")
