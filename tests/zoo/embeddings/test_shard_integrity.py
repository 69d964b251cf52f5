"""A shard is held against the hash in its own footer, whatever pyarrow would write today; older shards still open."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import assert_tidy, results, run
from pictures import encode, fill, picture

from zoo.embeddings import shards
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DamagedShard, OutputFolder, Rows
from zoo.embeddings.verify import verify
from zoo.errors import UserError
from zoo.sources.file_listing import FILES
from zoo.system.parquet import read_table

PATHS = [b"\xff.jpg", b"b.jpg", b"0" * 64]  # the last one stands in the statistics of the column path


@pytest.fixture
def made(tmp_path: Path) -> tuple[OutputFolder, Plan]:
    """Two shards of made-up rows."""
    fingerprint = Fingerprint({"model": "made"}, dim=2, format="parquet", batch_size=1, shard_size=2)
    files = pa.table([PATHS, [1, 2, 3], [1, 2, 3]], schema=FILES)
    plan, folder = Plan.new(fingerprint, files), OutputFolder(tmp_path / "out")
    folder.create()
    for shard in range(plan.shards):
        rows = Rows.empty(plan, shard)
        for slot in range(len(rows.paths)):
            rows.vectors["embedding"][slot] = shard, slot
            rows.status[slot], rows.sha256[slot], rows.width[slot], rows.height[slot] = "ok", "a" * 64, 8, 8
        folder.write(plan, shard, rows)
    return folder, plan


def without_hash(path: Path) -> bytes:
    """The bytes that version 0.2 wrote for the same shard."""
    table = read_table(path).combine_chunks()
    metadata = {key: value for key, value in table.schema.metadata.items() if key != shards.OWN_SHA256}
    return shards._encode(table.replace_schema_metadata(metadata))


def other_encoding(table: pa.Table, footer: dict[bytes, bytes] | None = None) -> bytes:
    """The same table as a later pyarrow might write it."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="gzip", version="1.0", use_dictionary=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**(footer or {}), "added.by": "a later version"})
    return buffer.getvalue()


def assert_refused(folder: OutputFolder, plan: Plan, data: bytes) -> None:
    (folder.root / "embeddings-00001.parquet").write_bytes(data)
    with pytest.raises(DamagedShard):
        folder.read(plan, 1)


def test_a_flipped_bit_anywhere_is_found(made: tuple[OutputFolder, Plan]) -> None:
    folder, plan = made
    data = (folder.root / "embeddings-00001.parquet").read_bytes()
    assert data.count(b"zoo.sha256") == 1
    at_hash = data.index(b"zoo.sha256")
    every = {*range(0, len(data), 4), *range(at_hash - 20, at_hash + 80), *range(len(data) - 20, len(data))}
    for at in sorted(every):  # magic bytes, pages, their headers, the footer, the hash in it
        assert_refused(folder, plan, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])


def test_a_cut_or_longer_shard_and_another_one_s_bytes_are_found(made: tuple[OutputFolder, Plan]) -> None:
    folder, plan = made
    data = (folder.root / "embeddings-00001.parquet").read_bytes()
    for cut in (*range(0, len(data), 97), *range(len(data) - 20, len(data))):
        assert_refused(folder, plan, data[:cut])
    for longer in (data + b"\0", b"\0" + data, data + data[-8:], data * 2):
        assert_refused(folder, plan, longer)
    assert_refused(folder, plan, (folder.root / "embeddings-00000.parquet").read_bytes())
    (folder.root / "embeddings-00001.parquet").write_bytes(data)
    rows = folder.read(plan, 1)
    assert rows is not None
    assert (rows.paths, rows.status) == ([b"0" * 64], ["ok"])
    np.testing.assert_array_equal(rows.vectors["embedding"], [[1, 0]])


def test_the_hash_is_that_of_the_file_with_zeros_in_its_place(made: tuple[OutputFolder, Plan]) -> None:
    data = (made[0].root / "embeddings-00001.parquet").read_bytes()
    metadata = pq.read_metadata(io.BytesIO(data)).metadata
    assert shards._with_own_sha256(data.replace(metadata[b"zoo.sha256"], b"0" * 64)) == data
    assert {b"zoo.plan", b"zoo.shard"} <= metadata.keys()


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_a_pyarrow_that_writes_other_bytes_reads_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    images, out = fill(tmp_path / "images", 14), tmp_path / "out"
    run(images, out, format=format, dedupe=True)
    before = results(out)
    monkeypatch.setattr(shards, "_encode", other_encoding)
    for lost in (
        "_manifest.json",
        "_near_duplicates.parquet",
    ):  # an unfinished run, and one that ends with an old shard
        (out / lost).unlink()
        result = run(images, out, format=format, dedupe=True)
        assert (result.reused, result.notes) == (14, ())
        assert results(out) == before
    (out / "_manifest.json").unlink()
    (out / "embeddings-00001.parquet").unlink()
    assert run(images, out, format=format, dedupe=True).reused == 8
    changed = {name for name, sha256 in results(out).items() if before[name] != sha256}
    assert changed == {"embeddings-00001.parquet", "_manifest.json"}
    (images / "zz.png").write_bytes(encode(picture(seed=50), "PNG"))
    assert run(images, out, format=format, dedupe=True, update=True).reused == 14
    assert verify(out).manifest["images"] == 15
    assert_tidy(out)


@pytest.mark.parametrize("format", ["parquet", "npy", "safetensors"])
def test_a_run_that_an_earlier_version_began_is_continued(tmp_path: Path, format: str) -> None:
    images, out = fill(tmp_path / "images", 14), tmp_path / "out"
    run(images, out, format=format)
    whole = results(out)
    for name in ("_manifest.json", "embeddings-00002.parquet"):
        (out / name).unlink()
    for number in range(2):
        path = out / f"embeddings-{number:05d}.parquet"
        path.write_bytes(without_hash(path))
    result = run(images, out, format=format)
    assert (result.reused, result.notes) == (12, ())
    changed = {name for name, sha256 in results(out).items() if whole[name] != sha256}
    assert changed == {"embeddings-00000.parquet", "embeddings-00001.parquet", "_manifest.json"}
    verify(out)
    assert run(images, out, format=format).reused == 14
    assert_tidy(out)


def old_finished(out: Path, images: Path, **options: Any) -> dict[str, str]:
    """A finished folder of an earlier version."""
    run(images, out, **options)
    for path in out.glob("embeddings-*.parquet"):
        path.write_bytes(without_hash(path))
    (out / "_manifest.json").unlink()
    assert run(images, out, **options).notes == ()
    return results(out)


def test_shards_of_an_earlier_version_are_held_against_their_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = fill(tmp_path / "images", 14), tmp_path / "out"
    before = old_finished(out, images)
    shutil.copytree(out, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "_manifest.json").unlink()
    monkeypatch.setattr(shards, "_encode", other_encoding)
    verify(out)
    assert run(images, out).reused == 14
    assert results(out) == before
    (out / "embeddings-00001.parquet").unlink()
    result = run(images, out)
    assert (result.reused, result.notes) == (8, ())
    assert {name for name, sha256 in results(out).items() if before[name] != sha256} == {
        "embeddings-00001.parquet",
        "_manifest.json",
    }
    again = run(images, tmp_path / "unfinished")
    assert (again.reused, len(again.notes)) == (0, 3), "nothing says what they should be: they are made again"
    verify(tmp_path / "unfinished")


def test_damage_of_a_shard_of_an_earlier_version_is_found(tmp_path: Path) -> None:
    images, out = fill(tmp_path / "images", 8), tmp_path / "out"
    old_finished(out, images)
    path = out / "embeddings-00000.parquet"
    data = path.read_bytes()
    for manifest in (True, False):
        for at in (*range(0, len(data) - 700, 501), *range(len(data) - 700, len(data), 50)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
            with pytest.raises(DamagedShard):
                OutputFolder(out).read(read_plan(out), 0)
            if manifest:
                with pytest.raises(UserError, match=r"embeddings-00000\.parquet has the sha256"):
                    verify(out)
        (out / "_manifest.json").unlink(missing_ok=True)
    assert run(images, out).reused == 2
    verify(out)


def read_plan(out: Path) -> Plan:
    plan = Plan.load(out / ".zoo" / "plan.parquet")
    assert plan is not None
    return plan
