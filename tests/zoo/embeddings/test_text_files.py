"""``zoo cat`` to CSV and JSON lines: the same numbers, every value in its place, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from extraction_driver import PixelMeans, run
from pictures import fill

import zoo.embeddings.merge as merging
from zoo.embeddings.merge import merge
from zoo.embeddings.text_files import write_text
from zoo.errors import UserError

KINDS = ("csv", "jsonl")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cat")
    images = fill(folder / "images", 5)
    (images / 'a "quoted", name\n=2.png').write_bytes((images / "00.jpeg").read_bytes())
    (images / "broken.jpg").write_bytes(b"no image")
    run(images, folder / "out", embedder=PixelMeans(stages=True), shard_size=2)
    return folder / "out"


def test_the_numbers_of_every_row_are_those_of_the_table(out: Path, tmp_path: Path) -> None:
    merge(out, tmp_path / "all.parquet")
    rows = pa.parquet.read_table(tmp_path / "all.parquet").to_pylist()
    for kind in KINDS:
        merged = merge(out, tmp_path / f"all.{kind}")
        assert merged.rows == len(rows) == 7
        assert merged.files == (tmp_path / f"all.{kind}",)
    with (tmp_path / "all.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    for row, cell, line in zip(rows, cells, lines, strict=True):
        assert cell["path"] == line["path"] == row["path"]
        assert cell["sha256"] == line["sha256"] == row["sha256"]
        for name in ("embedding", "layer1_map"):
            if row[name] is None:
                assert (cell[f"{name}_0"], line[name], line["status"]) == ("", None, "not-an-image")
                continue
            exact = np.array(row[name], np.float32)
            numbers = [cell[f"{name}_{i}"] for i in range(len(exact))]
            np.testing.assert_array_equal(np.array(numbers, np.float32), exact)
            np.testing.assert_array_equal(np.array(line[name], np.float32).ravel(), exact)
    assert np.array(lines[0]["layer1_map"]).shape == (3, 4, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_leaves_no_file_and_one_that_exists_is_kept(
    out: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"kept.{kind}").write_text("mine")
    with pytest.raises(UserError, match="exists: choose another name"):
        merge(out, tmp_path / f"kept.{kind}")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "write_text", fail)
    with pytest.raises(UserError, match="disk full"):
        merge(out, tmp_path / f"new.{kind}")
    assert [path.name for path in tmp_path.iterdir()] == [f"kept.{kind}"]


def test_values_that_text_does_not_have_are_told_in_its_words() -> None:
    table = pa.table(
        {
            "path": ["ü.jpg", "b.jpg"],
            "path_bytes": pa.array([b"\xff", None], pa.binary()),
            "status": ["ok", "missing"],
            "when": [date(2026, 1, 2), None],
            "score": [float("nan"), 1.5],
            "tags": [[{"a": b"x", "b": float("inf")}], None],
        }
    )
    files = {kind: io.BytesIO() for kind in KINDS}
    for kind, file in files.items():
        write_text(f".{kind}", [(table, {"embedding": np.array([[0.1], [np.nan]], np.float16)})], file)
    first, second = map(json.loads, files["jsonl"].getvalue().decode().splitlines())
    assert first["path"] == "ü.jpg"
    assert (first["path_bytes"], first["when"], first["score"]) == ("/w==", "2026-01-02", None)
    assert first["tags"] == [{"a": "eA==", "b": None}]
    assert np.float16(first["embedding"][0]) == np.float16(0.1)
    assert (second["embedding"], second["tags"]) == (None, None)
    one, two = csv.DictReader(io.StringIO(files["csv"].getvalue().decode()))
    assert (one["path_bytes"], one["when"], one["tags"]) == ("/w==", "2026-01-02", '[{"a": "eA==", "b": null}]')
    assert (two["embedding_0"], two["path_bytes"], two["score"]) == ("", "", "1.5")


def test_a_kept_column_is_never_overwritten_by_a_number() -> None:
    table = pa.table({"status": ["ok"], "embedding_1": [7]})
    with pytest.raises(UserError, match="keeps a column embedding_1"):
        write_text(".csv", [(table, {"embedding": np.zeros((1, 2), np.float32)})], io.BytesIO())


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_shard_is_written_in_blocks(kind: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(64, 1 << 14)).astype(np.float32)  # 80 MB as Python strings
    table = pa.table({"status": ["ok"] * len(vectors)})
    with open("/dev/null", "wb") as file:
        tracemalloc.start()
        write_text(f".{kind}", [(table, {"embedding": vectors})], file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 40e6


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "npy", "safetensors"])
def test_the_folder_of_the_merged_file_is_made(kind: str, out: Path, tmp_path: Path) -> None:
    assert merge(out, tmp_path / "new" / "folder" / f"all.{kind}").rows == 7
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, not a folder"):
        merge(out, tmp_path / "file" / f"all.{kind}")
