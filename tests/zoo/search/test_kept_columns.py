from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_collection import clusters, make

from zoo.errors import UserError
from zoo.search.collection import Collection
from zoo.search.kept_columns import MAX_TEXT, MISSING, KeptColumn, KeptColumns

ROWS = 60


def opened(root: Path, **columns: Any) -> KeptColumns:
    return KeptColumns(made(root, **columns))


def made(root: Path, **columns: Any) -> Collection:
    return make(root, clusters(ROWS, 4), shard_size=7, failed=(3,), kept=pa.table(columns))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([n % 3 for n in range(ROWS)], "categories"),  # labels
        (list(range(ROWS)), "numbers"),
        ([str(n % 3) for n in range(ROWS)], "categories"),  # of a CSV, whose values are texts
        ([f"{n}.5" for n in range(ROWS)], "numbers"),
        ([f"{n % 2}.5" for n in range(ROWS)], "numbers"),
        ([f"{n}" if n else "" for n in range(ROWS)], "numbers"),
        ([f"{n}" if n else "none" for n in range(ROWS)], "text"),
        ([f"name {n}" for n in range(ROWS)], "text"),
        ([f"name {n // 2}" for n in range(ROWS)], "categories"),
        ([n % 2 == 0 for n in range(ROWS)], "categories"),
        ([n / 7 for n in range(ROWS)], "numbers"),
        ([1.0] * ROWS, "numbers"),
        ([None] * (ROWS - 1) + ["x"], "categories"),
        ([datetime.date(2020, 1, 1 + n % 5) for n in range(ROWS)], "categories"),
        (pa.array(["a", "b", "b"] * 20).dictionary_encode(), "categories"),
        (pa.array(["a", "b", "b"] * 20, pa.large_string()), "categories"),
        (pa.array([np.inf, np.nan, None] * 20), "numbers"),
        (pa.array([2**60 + n for n in range(ROWS)]), "numbers"),
    ],
)  # fmt: skip
def test_what_a_column_is_follows_from_its_values(tmp_path: Path, values: Any, kind: str) -> None:
    columns = opened(tmp_path, it=values)
    assert columns.column("it").kind == kind
    if kind != "text":
        assert len(columns.codes("it")) == ROWS
    else:
        with pytest.raises(KeyError):
            columns.codes("it")


def test_codes_and_counts_of_categories(tmp_path: Path) -> None:
    values = ["b", "a", "b", None, "c", "b"] * 10
    columns = opened(tmp_path, it=values)
    assert columns.column("it") == KeptColumn("it", "categories", ("b", "a", "c"), (30, 10, 10))
    code = {"b": 0, "a": 1, "c": 2, None: MISSING}
    assert columns.codes("it").tolist() == [code[value] for value in values]


def test_the_scale_of_numbers(tmp_path: Path) -> None:
    values = [*np.linspace(-3, 9, ROWS - 3).tolist(), None, np.nan, np.inf]
    columns = opened(tmp_path, it=pa.array(values))
    column = columns.column("it")
    assert (column.least, column.most) == (-3, 9)
    np.testing.assert_array_equal(columns.codes("it")[:-3], np.array(values[:-3], np.float32))
    assert np.isnan(columns.codes("it")[-3:-1]).all()


def test_texts_are_found_in_paths_and_values_whatever_their_case(tmp_path: Path) -> None:
    names = ["Müller <b>", "ΣΊΣΥΦΟΣ", "\u202etxt.exe", "100%_", "[a-z]+", "a\"b'c"] * 10
    columns = opened(tmp_path, name=names, n=list(range(ROWS)))
    for text, of in (("müller <", 0), ("σίσυφ", 1), ("\u202e", 2), ("%_", 3), ("[A-Z]+", 4), ("\"B'", 5)):
        found = np.frombuffer(columns.rows_with(text), np.uint8)
        assert np.flatnonzero(found).tolist() == list(range(of, ROWS, 6)), text
    assert np.flatnonzero(np.frombuffer(columns.rows_with("0000007.JPG"), np.uint8)).tolist() == [7]
    assert not any(columns.rows_with("nowhere"))


def test_captions_are_short_texts_and_nested_columns_are_left_out(tmp_path: Path) -> None:
    columns = opened(
        tmp_path, ok=[True] * ROWS, long=["x" * 5000] * ROWS, box=[[1, 2]] * ROWS, raw=[b"\x00\xff"] * ROWS
    )
    assert columns.names == ["ok", "long"]
    (found,) = columns.captions([59])
    assert found["ok"] == "true"
    assert len(found["long"]) == MAX_TEXT
    assert opened(tmp_path / "none", box=[[1]] * ROWS).captions([5, 4]) == [{}, {}]
    assert KeptColumns(make(tmp_path / "nothing", clusters(3, 4))).names == []


def test_a_damaged_shard_is_said(tmp_path: Path) -> None:
    collection = made(tmp_path, it=list(range(ROWS)))
    columns = KeptColumns(collection)
    shard = tmp_path / "embeddings-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-50])
    for read in (lambda: columns.column("it"), lambda: columns.rows_with("x"), lambda: columns.captions([22])):
        with pytest.raises(UserError, match=r"embeddings-00003\.parquet is missing or not what the manifest says"):
            read()
