"""Libraries that read a folder of Parquet files read a result; results of earlier versions keep their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import pandas
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from extraction_driver import results, run
from pictures import encode, fill, picture

import zoo
from zoo.embeddings.verify import verify
from zoo.search.collection import Collection
from zoo.search.index import build, open_index

OLD = {
    "_manifest.json": "manifest.json",
    "_near_duplicates.parquet": "near_duplicates.parquet",
    "_near_duplicate_groups.parquet": "near_duplicate_groups.parquet",
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    run(fill(tmp_path / "images", 9), tmp_path / "out", dedupe=True, near=0.5)
    build(Collection(tmp_path / "out"))
    return tmp_path / "out"


def test_readers_of_folders_see_the_rows_and_nothing_else(out: Path, tmp_path: Path) -> None:
    wanted = zoo.read(out, all_rows=True).paths
    assert pandas.read_parquet(out)["path"].tolist() == wanted
    assert pyarrow.dataset.dataset(out).to_table()["path"].to_pylist() == wanted
    assert pq.read_table(out)["path"].to_pylist() == wanted
    found = duckdb.sql(f"select path from '{out}/embeddings-*.parquet' order by file_row_number").fetchall()
    assert len(found) == len(wanted)
    loaded = load_dataset("parquet", data_files=f"{out}/embeddings-*.parquet", cache_dir=str(tmp_path / "cache"))
    assert loaded["train"]["path"][:] == wanted


def as_an_earlier_version_left_it(out: Path) -> None:
    for new, old in OLD.items():
        (out / new).rename(out / old)
    told = json.loads((out / "manifest.json").read_text())
    told["near_duplicates"]["file"] = OLD["_near_duplicates.parquet"]
    told["near_duplicates"]["groups"]["file"] = OLD["_near_duplicate_groups.parquet"]
    (out / "manifest.json").write_text(json.dumps(told, indent=2) + "\n")
    (out / ".zoo" / "manifest.sha256").unlink()


def test_a_result_with_the_names_of_an_earlier_version_opens_and_goes_on(out: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    as_an_earlier_version_left_it(out)
    before = results(out)
    assert len(zoo.read(out)) == len(Collection(out)) == verify(out).manifest["images"] == 9
    build(Collection(out))
    assert open_index(Collection(out)).info["indexed"] == 9
    # The same command finds it complete and changes nothing.
    assert run(images, out, dedupe=True, near=0.5).reused == 9
    assert results(out) == before
    # A shard that was lost is made again; the manifest keeps its name.
    (out / "embeddings-00000.parquet").unlink()
    assert run(images, out, dedupe=True, near=0.5).reused < 9
    verify(out)
    assert set(OLD) - set(results(out)) == {"_manifest.json"}
    # An update gives all files their new names.
    (images / "zz.png").write_bytes(encode(picture(seed=9), "PNG"))
    run(images, out, dedupe=True, near=0.5, update=True)
    assert verify(out).manifest["images"] == 10
    assert not set(OLD.values()) & set(results(out))
    shutil.rmtree(out / ".zoo" / "index")
    run(images, tmp_path / "fresh", dedupe=True, near=0.5)
    assert set(results(out)) == set(results(tmp_path / "fresh"))
