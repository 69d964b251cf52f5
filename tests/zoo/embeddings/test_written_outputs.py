"""Layers, maps, heads and tiles as an extraction writes, merges, indexes and updates them, in every format."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, assert_tidy, results, run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray
from photographs import PHOTOS, alike
from pictures import fill
from safetensors.numpy import load_file

import zoo
from zoo.embeddings import columns
from zoo.embeddings.merge import merge
from zoo.embeddings.verify import verify
from zoo.errors import UserError
from zoo.extraction.fingerprint import default_shard_size
from zoo.inference.outputs import Outputs
from zoo.search.collection import Collection
from zoo.search.index import build
from zoo.search.query import embed_bytes, open_model

pytestmark = pytest.mark.usefixtures("two_threads")


def read(out: Path, format: str, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    def shard(table: Path) -> NDArray[Any]:
        if format == "safetensors":
            return load_file(table.with_suffix(".safetensors"))[name]
        if format == "npy":
            beside = "" if name == "embedding" else f".{name}"
            return np.asarray(np.load(table.with_suffix(f"{beside}.npy")))
        rows = pq.read_table(table)[name].to_pylist()
        empty = [np.nan] * int(np.prod(shape))
        return np.array([empty if row is None else row for row in rows], np.float32).reshape(len(rows), *shape)

    return np.concatenate([shard(table) for table in sorted(out.glob("embeddings-*.parquet"))])


@pytest.mark.parametrize("format", ["parquet", "npy", "safetensors"])
def test_every_output_is_written_merged_verified_and_indexed(
    many_outputs: zoo.Embedder, photo_folder: Path, tmp_path: Path, format: str
) -> None:
    out = tmp_path / "out"
    result = run(photo_folder, out, embedder=many_outputs, format=format, shard_size=4, batch_size=32)
    assert (result.total, result.ok, result.failed) == (7, 6, {"not-an-image": 1})
    expected = many_outputs.outputs(PHOTOS)
    assert set(expected) == {"embedding", "layer2", "layer4", "layer3_map", "tiles"}
    manifest = verify(out).manifest
    assert manifest["outputs"] == {key: list(v.shape[1:]) for key, v in expected.items() if key != "embedding"}
    merge(out, tmp_path / "all.parquet")
    table = pq.read_table(tmp_path / "all.parquet")
    merge(out, tmp_path / "sets.npy")
    merge(out, tmp_path / "tensors.safetensors")
    assert set(table.schema.names) - set(pq.read_schema(tmp_path / "sets.parquet").names) == set(expected)
    for name, values in expected.items():
        found = read(out, format, name, values.shape[1:])
        assert np.isnan(found[-1]).all()
        alike(found[:-1], values)
        merged = np.load(tmp_path / ("sets.npy" if name == "embedding" else f"sets.{name}.npy"))
        np.testing.assert_array_equal(merged, found)
        np.testing.assert_array_equal(load_file(tmp_path / "tensors.safetensors")[name], found)
        np.testing.assert_array_equal(columns.array(table[name], values.shape[1:]), found)
        told = table.schema.field(name).metadata
        assert told is None if name == "embedding" else json.loads(told[b"zoo.shape"]) == list(values.shape[1:])
    assert build(Collection(out))["indexed"] == 6
    shutil.rmtree(out / ".zoo" / "index")
    before = results(out)
    damaged = out / ("embeddings-00001.layer4.npy" if format == "npy" else f"embeddings-00001.{format}")
    data = damaged.read_bytes()
    damaged.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with pytest.raises(UserError, match=f"{damaged.name} has the sha256"):
        verify(out)
    again = run(photo_folder, out, embedder=many_outputs, format=format, shard_size=4, batch_size=32)
    assert again.reused == 4
    assert results(out) == before


def test_outputs_are_part_of_the_plan(photo_folder: Path, tmp_path: Path) -> None:
    plain, ten = (zoo.load(device="cpu", outputs=Outputs(crops=crops)) for crops in ("center", "ten"))
    assert plain.identity().keys() == ten.identity().keys() - {"crops"}
    run(photo_folder, tmp_path / "out", embedder=ten)
    with pytest.raises(UserError, match="crops ten there, none now"):
        run(photo_folder, tmp_path / "out", embedder=plain)
    with pytest.raises(UserError, match=r"outputs\.layer2 none there, \[128\] now"):
        run(photo_folder, tmp_path / "out", embedder=replace(ten, requested=Outputs(crops="ten", layers=("layer2",))))
    build(Collection(tmp_path / "out"))
    query = open_model(Collection(tmp_path / "out"), device="cpu")
    found = embed_bytes(query, PHOTOS[2].read_bytes(), 10**8)
    alike(found[None], ten(PHOTOS[2]))


def test_duckdb_and_datasets_read_maps_as_they_are(photo_folder: Path, tmp_path: Path) -> None:
    run(photo_folder, tmp_path / "out", embedder=PixelMeans(stages=True))
    duckdb = pytest.importorskip("duckdb", reason="reads the result as a user would")
    query = f"select count(layer1_map), max(len(layer1_map)) from '{tmp_path}/out/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(6, 48)]
    datasets = pytest.importorskip("datasets", reason="reads the result as a user would")
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    table = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert np.array(table[0]["layer1_map"]).shape == (48,)


def test_an_update_takes_all_outputs_over(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", 8)
    embedder = PixelMeans(stages=True)
    run(images, tmp_path / "out", embedder=embedder, format="npy")
    (images / "00.jpeg").unlink()
    shutil.copy(images / "01.png", images / "zz.png")
    assert run(images, tmp_path / "out", embedder=embedder, format="npy", update=True).reused == 7
    run(images, tmp_path / "fresh", embedder=embedder, format="npy")
    for name in ("embedding", "layer1", "layer1_map"):
        found, expected = (read(tmp_path / out, "npy", name, ()) for out in ("out", "fresh"))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert_tidy(tmp_path / "out")


def test_what_is_not_finite_in_any_output_is_a_failed_row(tmp_path: Path) -> None:
    class Explodes(PixelMeans):
        def outputs_of(self, views: Any, at_once: int = 32) -> dict[str, Any]:
            found = super().outputs_of(views, at_once)
            found["layer1_map"][0, 2, 3, 1] = np.inf
            return found

    result = run(fill(tmp_path / "images", 6), tmp_path / "out", embedder=Explodes(stages=True))
    assert result.failed == {"not-finite": 2}
    assert result.failures[0][2] == "the network gave a value in layer1_map that is not finite in float32"


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_shape_survives_parquet(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
    dtype = data.draw(st.sampled_from([np.float32, np.float16]))
    width = 8 * np.dtype(dtype).itemsize
    finite = st.floats(-100, 100, width=width)  # type: ignore[arg-type]
    rows = data.draw(arrays_of.arrays(dtype, (data.draw(st.integers(1, 5)), *shape), elements=finite))
    status = [data.draw(st.sampled_from(["ok", "corrupt"])) for _ in rows]
    expected = rows.copy()
    expected[[state != "ok" for state in status]] = np.nan
    field, column = columns.column("layer1_map", expected, status)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table([column], schema=pa.schema([field])), buffer)
    table = pq.read_table(pa.BufferReader(buffer.getvalue()))
    assert json.loads(table.schema.field("layer1_map").metadata[columns.SHAPE]) == list(shape)
    assert table["layer1_map"].null_count == sum(state != "ok" for state in status)
    found = columns.array(table["layer1_map"], shape)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_shards_are_smaller_where_rows_are_large() -> None:
    assert [default_shard_size(n) for n in (24, 8192, 1 << 16, 1 << 17, 10**9)] == [1024, 1024, 1024, 512, 1]
