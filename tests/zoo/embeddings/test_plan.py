from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from zoo.embeddings import plan as plan_module
from zoo.embeddings.fingerprint import Fingerprint, differences
from zoo.embeddings.plan import Duplicate, Plan, digest_of
from zoo.errors import UserError
from zoo.sources.file_listing import FILES

JSON = {"model": "m", "preprocessing": {"resize": 8, "mean": [0.5]}, "batch_size": 2, "shard_size": 4}
JSON |= {"dim": 3, "format": "parquet"}
FINGERPRINT = Fingerprint.from_json(JSON)


def table(*rows: tuple[bytes, int, int]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=FILES)


def numbered(n: int) -> pa.Table:
    return table(*((b"%03d.jpg" % i, i, i) for i in range(n)))


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 11])
def test_shards_cover_every_row_once(n: int) -> None:
    plan = Plan.new(FINGERPRINT, numbered(n))
    assert [row for shard in range(plan.shards) for row in plan.rows(shard)] == list(range(n))
    assert [row for shard in range(plan.shards) for row in plan.to_compute(shard)] == list(range(n))


def test_rows_taken_over_are_not_computed() -> None:
    plan = Plan(FINGERPRINT, numbered(6), np.array([-1, 0, 1, -1, 2, 3]))
    assert [plan.to_compute(shard).tolist() for shard in range(2)] == [[0, 3], []]


def test_the_key_is_that_of_fingerprint_paths_and_sizes() -> None:
    def key(fingerprint: dict[str, Any], *rows: tuple[bytes, int, int]) -> str:
        return Plan.new(Fingerprint.from_json(fingerprint), table(*rows)).key

    rows = [(b"a", 1, 10), (b"b", 2, 20)]
    same = key(JSON, *rows)
    assert key(dict(reversed(JSON.items())), *rows) == same
    assert key(JSON, (b"a", 1, 99), rows[1]) == same, "a copied folder has other times"
    assert key(JSON | {"model": "n"}, *rows) != same
    assert key(JSON, rows[0]) != same
    assert key(JSON, (b"a", 2, 10), rows[1]) != same
    assert key(JSON, (b"a1", 1, 10), rows[1]) != same


def test_a_saved_plan_comes_back_and_the_first_one_stays(tmp_path: Path) -> None:
    plan = Plan(FINGERPRINT, table((b"\xff\n", 3, 2**62), (b"b", -1, -1)), np.array([-1, 7]))
    path = tmp_path / "plan"
    assert Plan.load(path) is None
    assert plan.save(path, tmp_path)
    assert not Plan.new(replace(FINGERPRINT, dim=4), numbered(3)).save(path, tmp_path)
    loaded = Plan.load(path)
    assert loaded is not None
    assert (loaded.fingerprint, loaded.key, loaded.reuse.tolist()) == (FINGERPRINT, plan.key, [-1, 7])
    assert loaded.same_files(plan.files)


def with_duplicates(first: list[int], **changes: Any) -> Plan:
    """Seven files in shards of four; ``first`` is the row of the first file with the same bytes, -1 for none."""
    n = len(first)
    facts = {
        "zoo.copy_of": pa.array(first, pa.int64()),
        "zoo.sha256": [f"{row:064d}" for row in range(n)],
        "zoo.width": pa.array([None, *range(1, n)], pa.int32()),
        "zoo.height": pa.array([None, *range(11, n + 10)], pa.int32()),
    }
    return Plan.new(replace(FINGERPRINT, near_threshold=0.9, **changes), numbered(n), pa.table(facts))


def test_duplicates_are_those_of_their_shard_and_are_not_computed(tmp_path: Path) -> None:
    plan = with_duplicates([-1, 0, -1, 2, -1, 0, -1])
    path = tmp_path / "plan"
    assert plan.save(path, tmp_path)
    loaded = Plan.load(path)
    assert loaded is not None
    assert loaded.key == plan.key
    for found in (plan, loaded):
        assert found.duplicates_in(0) == [
            Duplicate(1, b"000.jpg", f"{1:064d}", 1, 11),
            Duplicate(3, b"002.jpg", f"{3:064d}", 3, 13),
        ]
        assert found.duplicates_in(1) == [Duplicate(5, b"000.jpg", f"{5:064d}", 5, 15)]
        assert [found.to_compute(shard).tolist() for shard in range(2)] == [[0, 2], [4, 6]]
        assert found.first_of_bytes.tolist() == [0, 0, 2, 2, 4, 0, 6]
        assert found.same_files(plan.files)
        assert found.files.schema.names == FILES.names
    assert not loaded.same_files(numbered(6))
    assert with_duplicates([-1, 0, -1, 2, -1, 4, -1]).key != plan.key
    without = Plan.new(FINGERPRINT, numbered(3))
    assert (without.duplicates_in(0), without.first_of_bytes.tolist()) == ([], [0, 1, 2])


def test_kept_columns_are_part_of_the_key_and_stay(tmp_path: Path) -> None:
    def keeping(values: list[float]) -> Plan:
        files = numbered(3).append_column("score", pa.array(values))
        return Plan.new(replace(FINGERPRINT, keep=("score",)), files)

    plan = keeping([0.5, 1.5, float("nan")])
    assert plan.kept_of(range(3)).schema.names == ["score"]
    assert keeping([0.5, 1.5, float("nan")]).key == plan.key
    assert keeping([0.5, 1.5, 2.0]).key != plan.key
    assert plan.save(tmp_path / "plan", tmp_path)
    loaded = Plan.load(tmp_path / "plan")
    assert loaded is not None
    assert (loaded.key, loaded.kept_of(range(3))["score"].to_pylist()[:2]) == (plan.key, [0.5, 1.5])


def test_a_digest_is_of_names_types_and_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"a": pa.array(range(10), pa.int64()), "b": pa.array([f"é{n}" for n in range(10)])}
    digest = digest_of(pa.table(columns))
    assert digest.hex().startswith("ac993a74ec428132")  # plans of earlier versions must keep their key
    chunked = pa.concat_tables([pa.table(columns).slice(0, 3), pa.table(columns).slice(3)])
    assert digest_of(chunked) == digest
    for changed in (
        columns | {"a": pa.array(range(10), pa.int32())},
        columns | {"a": pa.array([*range(9), 8], pa.int64())},
        {"c": columns["a"], "b": columns["b"]},
        {"b": columns["b"], "a": columns["a"]},
    ):
        assert digest_of(pa.table(changed)) != digest
    monkeypatch.setattr(plan_module, "_VALUES_AT_ONCE", 4)
    assert digest_of(pa.table(columns)) == digest_of(chunked)
    assert digest_of(pa.table(columns)) != digest_of(pa.table(columns | {"a": pa.array([*range(9), 8], pa.int64())}))


def test_a_key_stays_what_it_was() -> None:
    """A result of an earlier version is continued only under the same key."""
    assert Plan.new(FINGERPRINT, numbered(5)).key.startswith("17aed91a89971873")
    assert with_duplicates([-1, 0, -1, 2, -1, 0, -1]).key.startswith("275cd2b8cb412ff5")


def test_a_damaged_plan_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    Plan.new(FINGERPRINT, numbered(9)).save(path, tmp_path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="is damaged"):
            Plan.load(path)


def test_differences_are_named_with_both_values() -> None:
    there = {"model": "m", "preprocessing": {"resize": 8, "mean": [0.5]}, "batch_size": 2, "shard_size": 4}
    assert differences(there, dict(reversed(there.items()))) == []
    now = {"model": "n", "preprocessing": {"resize": 9, "mean": [0.5]}, "batch_size": 2, "format": "npy"}
    assert differences(there, now) == [
        "model m there, n now",
        "preprocessing.resize 8 there, 9 now",
        "format none there, npy now",
        "shard_size 4 there, none now",
    ]
    assert differences({"sha": "a" * 64}, {"sha": "b" * 64}) == [f"sha {'a' * 16}... there, {'b' * 16}... now"]
