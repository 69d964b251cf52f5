from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from zoo.embeddings.fingerprint import Fingerprint, differences
from zoo.embeddings.plan import Plan
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
