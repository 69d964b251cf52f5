"""Several labels of an image are noticed in whatever form they come; names that only look like it stay names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo.datasets.label_forms import several_labels
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError

PHOTO = Path(__file__).parents[3] / "examples" / "photos" / "rocket.jpg"

SEVERAL: dict[str, list[Any]] = {
    "lists": [[0, 2], [1], []],
    "ragged names": [["cat", "dog"], ["cat"]],
    "arrays": [np.array([True, False]), np.array([False, True])],
    "sets": [{0, 2}, {1}],
    "json": ["[0, 2]", "[1]"],
    "python's lists of names, as pandas writes them": ["['cat', 'dog']", "['cat']"],
    "python's tuples": ["(0, 2)", "(1,)"],
    "python's sets": ["{0, 2}", "{1}"],
    "numpy's": ["[0 1 0]", "[1 0 0]"],
    "numpy's booleans": ["[ True False]", "[False  True]"],
    "numpy's floats": ["[0. 1.]", "[1. 0.]"],
    "objects": ['{"a": 1}', '{"b": 1}'],
    "spaces": ["0 2", "1", "2"],
    "bars": ["0|2", "1"],
    "names with commas": ["cat,dog", "cat", "dog"],
    "names with bars and spaces": ["cat | dog", "dog", "cat"],
    "names with semicolons": ["a;b", "a", "b"],
}
ONE: list[list[Any]] = [
    ["cat", "dog"],
    ["tench, Tinca tinca", "goldfish, Carassius auratus"],  # ImageNet's names
    ["(other)", "[unknown]", "{x}"],
    ["a|b", "c"],
    ["0", "12"],
    ["New York 2", "1"],
    [0, 1],
    [True, False],
    ["2020-01", "2020-02"],
]


@pytest.mark.parametrize("form", list(SEVERAL))
def test_several_labels_are_noticed(form: str) -> None:
    assert several_labels(SEVERAL[form]) is not None


@pytest.mark.parametrize("labels", ONE)
def test_one_label_each_stays_one(labels: list[Any]) -> None:
    assert several_labels(labels) is None


def csv_of(labels: list[Any], folder: Path) -> Path:
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((str(PHOTO), label) for label in labels)])
    return folder / "t.csv"


def parquet_of(labels: list[Any], folder: Path) -> Path:
    image = PHOTO.read_bytes()
    pq.write_table(pa.table({"image": [image] * len(labels), "label": labels}), folder / "t.parquet")
    return folder / "t.parquet"


def test_every_table_refuses_them_in_one_line(tmp_path: Path) -> None:
    for make, form in ((csv_of, "numpy's"), (parquet_of, "python's tuples"), (csv_of, "names with commas")):
        with pytest.raises(UserError, match="is a list: images with several labels") as error:
            open_dataset(make(SEVERAL[form], tmp_path))
        assert "\n" not in str(error.value)


def test_fractions_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the label 0\.5 is a fraction: give whole numbers from 0 or names"):
        open_dataset(parquet_of([0.5, 1.5], tmp_path))
    assert open_dataset(parquet_of([0.0, 1.0], tmp_path)).classes == ["0.0", "1.0"]
