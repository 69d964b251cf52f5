"""Shards of each format: names, rows, and the words for each kind of damage."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo.embeddings import columns, shards
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DamagedShard, OutputFolder, Rows
from zoo.sources.file_listing import FILES

PLAIN = Fingerprint({"model": "made"}, dim=2, format="npy", batch_size=1, shard_size=2, outputs={"layer3": (2, 1)})
FILES_OF = pa.table([[b"\xff.jpg", b"b.jpg", b"c.jpg"], [1, 2, 3], [1, 2, 3]], schema=FILES)


def filled(plan: Plan, shard: int) -> Rows:
    rows = Rows.empty(plan, shard)
    for slot in range(len(rows.paths)):
        for number, values in enumerate(rows.vectors.values()):
            values[slot] = 100 * shard + 10 * slot + number
        rows.status[slot], rows.sha256[slot], rows.width[slot], rows.height[slot] = "ok", "a" * 64, 8 + slot, 9
    return rows


def made(root: Path, fingerprint: Fingerprint = PLAIN) -> tuple[OutputFolder, Plan]:
    plan, folder = Plan.new(fingerprint, FILES_OF), OutputFolder(root / "out")
    folder.create()
    for shard in range(plan.shards):
        folder.write(plan, shard, filled(plan, shard))
    return folder, plan


@pytest.mark.parametrize(
    ("format", "beside"),
    [
        ("parquet", []),
        ("npy", ["embeddings-00001.npy", "embeddings-00001.layer3.npy"]),
        ("safetensors", ["embeddings-00001.safetensors"]),
    ],
)
def test_what_was_written_is_read(tmp_path: Path, format: str, beside: list[str]) -> None:
    folder, plan = made(tmp_path, replace(PLAIN, format=format))
    assert shards.names(plan, 1) == ["embeddings-00001.parquet", *beside]
    assert set(shards.names(plan, 0) + shards.names(plan, 1)) == folder.shard_files()
    for shard, count in ((0, 2), (1, 1)):
        rows, expected = folder.read(plan, shard), filled(plan, shard)
        assert rows is not None
        assert rows.paths == expected.paths == [[b"\xff.jpg", b"b.jpg"], [b"c.jpg"]][shard]
        assert (rows.status, rows.width, rows.height) == (["ok"] * count, [8, 9][:count], [9] * count)
        assert {name: values.shape for name, values in rows.vectors.items()} == {
            "embedding": (count, 2),
            "layer3": (count, 2, 1),
        }
        for name, values in expected.vectors.items():
            np.testing.assert_array_equal(rows.vectors[name], values)
    (folder.root / "embeddings-00001.parquet").unlink()
    assert folder.read(plan, 1) is None


def test_each_kind_of_damage_has_its_words(tmp_path: Path) -> None:
    folder, plan = made(tmp_path)
    table, vectors = folder.root / "embeddings-00001.parquet", folder.root / "embeddings-00001.layer3.npy"
    data, array = table.read_bytes(), vectors.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(DamagedShard, match=f"^{message}$"):
            folder.read(plan, 1)
        table.write_bytes(data)
        vectors.write_bytes(array)
        assert folder.read(plan, 1) is not None

    table.write_bytes(data[:-1])
    refused("cannot be read")
    table.write_bytes((folder.root / "embeddings-00000.parquet").read_bytes())
    refused("belongs to another run")
    at = data.index(b"c.jpg")
    table.write_bytes(data[:at] + b"d" + data[at + 1 :])
    refused("was altered")
    vectors.unlink()
    refused(r"misses embeddings-00001\.layer3\.npy")
    vectors.write_bytes(array[:-1] + b"\1")
    refused(r"does not go with embeddings-00001\.layer3\.npy")
    other, other_plan = made(tmp_path / "other", replace(PLAIN, batch_size=2))
    assert other.read(other_plan, 1) is not None
    table.write_bytes((other.root / table.name).read_bytes())
    refused("belongs to another run")


def test_duplicates_are_filled_in_and_do_not_count_as_failed() -> None:
    facts = {"zoo.copy_of": [-1, -1, 0, 1, -1], "zoo.sha256": [None, None, "b" * 64, "a" * 64, None]}
    facts |= {name: pa.array([None, None, 7, 8, None], pa.int32()) for name in ("zoo.width", "zoo.height")}
    files = pa.table([[b"\xff.jpg", b"b", b"c", b"d", b"e"], [1] * 5, [1] * 5], schema=FILES)
    plan = Plan.new(replace(PLAIN, shard_size=3, near_threshold=0.9), files, pa.table(facts))
    rows = Rows.empty(plan, 1)
    assert (rows.status, rows.sha256) == (["duplicate", None], ["a" * 64, None])
    assert (rows.width, rows.height, rows.error) == ([8, None], [8, None], ["the same bytes as b", None])
    assert Rows.empty(plan, 0).error == [None, None, r"the same bytes as \xff.jpg"]
    assert np.isnan(rows.vectors["embedding"]).all()
    assert rows.failed == 1
    rows.status[1] = "ok"
    assert rows.failed == 0


def test_a_copied_row_keeps_its_own_path() -> None:
    plan = Plan.new(PLAIN, FILES_OF)
    source, target = filled(plan, 0), Rows.empty(plan, 1)
    source.error[1] = "why"
    target.copy_row(0, source, 1)
    assert target.paths == [b"c.jpg"]
    assert (target.status, target.sha256, target.width, target.height, target.error) == (
        (["ok"], ["a" * 64], [9], [9], ["why"])
    )
    assert target.vectors["embedding"].tolist() == [[10, 10]]
    assert target.vectors["layer3"].tolist() == [[[11], [11]]]


def test_names_of_shards_and_of_their_hashes() -> None:
    for name in ("embeddings-00000.parquet", "embeddings-123456.npy", "embeddings-00001.layer3_map.npy"):
        assert shards.is_shard_file(name)
    for name in (
        "embeddings-0000.parquet",
        "embeddings-00000.csv",
        "x-embeddings-00000.npy",
        "embeddings-00000.npy~",
        7,
    ):
        assert not shards.is_shard_file(name)
    assert shards.hash_key("embeddings-00001.npy") == "zoo.vectors_sha256"
    assert shards.hash_key("embeddings-00001.safetensors") == "zoo.vectors_sha256"
    assert shards.hash_key("embeddings-00001.layer3.npy") == "zoo.vectors_sha256.layer3"
    assert OutputFolder(Path("/none")).shard_files() == set()


def test_a_run_that_finished_first_may_have_taken_the_temporary_files(tmp_path: Path) -> None:
    folder, plan = made(tmp_path)

    def gone(_: object) -> None:
        raise FileNotFoundError

    folder.commit("embeddings-00001.npy", gone)  # it is there
    with pytest.raises(FileNotFoundError):
        folder.commit("embeddings-00009.npy", gone)
    assert folder.read(plan, 1) is not None


def test_a_column_knows_its_shape_and_has_one_kind_of_nan() -> None:
    values = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    values[1:] = np.array([0x7E00, 0xFE01], np.uint16).view(np.float16)  # two of the many NaN
    field, made_column = columns.column("layer3", values, ["ok", "empty", None])
    assert field.metadata == {b"zoo.shape": b"[2, 2]"}
    assert field.type.value_field.name == "element"
    assert made_column.null_count == 2
    assert columns.column("embedding", values, ["ok"] * 3)[0].metadata is None
    back = columns.array(pa.chunked_array([made_column]), (2, 2))
    assert (back.dtype, back.shape) == (np.dtype("float16"), (3, 2, 2))
    np.testing.assert_array_equal(back[0], values[0])
    assert np.isnan(back[1:]).all()
    assert len(np.unique(back[1:].view(np.uint16))) == 1


def test_an_array_of_objects_is_not_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        columns.decode("a.npy", buffer.getvalue(), ["embedding"])


def test_kept_columns_stand_between_the_facts_and_the_vectors(tmp_path: Path) -> None:
    plan = Plan.new(
        replace(PLAIN, format="parquet", keep=("score",)), FILES_OF.append_column("score", pa.array([0.5, None, 2.5]))
    )
    folder = OutputFolder(tmp_path / "out")
    folder.create()
    folder.write(plan, 1, filled(plan, 1))
    table = pq.read_table(folder.root / "embeddings-00001.parquet")
    assert table["score"].to_pylist() == [2.5]
    assert table.schema.names[-4:] == ["error", "score", "embedding", "layer3"]
