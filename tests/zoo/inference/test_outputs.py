"""Formats and types of the result, ``zoo verify`` and ``zoo cat``, and what other people's readers make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, assert_tidy, finish, results, run
from numpy.typing import NDArray
from pictures import fill
from pyarrow.dataset import dataset
from safetensors.numpy import load_file
from typer.testing import CliRunner

from zoo.cli.main import app
from zoo.embeddings.manifest import summarise_parts
from zoo.embeddings.merge import merge
from zoo.embeddings.shards import OutputFolder
from zoo.embeddings.verify import verify
from zoo.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = fill(tmp_path / "images")
    (folder / "bad.jpg").write_bytes(b"bad")
    return folder


def vectors(out: Path, format: str) -> NDArray[Any]:
    def one(shard: int) -> NDArray[Any]:
        path = out / f"embeddings-{shard:05d}.{format}"
        if format == "npy":
            return np.asarray(np.load(path))
        if format == "safetensors":
            return load_file(path)["embedding"]
        column = pq.read_table(path)["embedding"].to_pylist()
        return np.array([row or [np.nan] * 24 for row in column])

    return np.concatenate([one(shard) for shard in range(4)])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_formats_hold_the_same_vectors(images: Path, tmp_path: Path, dtype: str) -> None:
    found = {}
    for format in ("parquet", "npy", "safetensors"):
        out = tmp_path / format
        assert run(images, out, format=format, dtype=dtype).ok == 20
        before = results(out)
        (out / "embeddings-00002.parquet").unlink()
        assert run(images, out, format=format, dtype=dtype).reused == 15
        assert results(out) == before
        assert_tidy(out)
        found[format] = vectors(out, format)
        assert verify(out).manifest["dtype"] == dtype
    assert found["npy"].dtype == found["safetensors"].dtype == np.dtype(dtype)
    for format in ("npy", "safetensors"):
        np.testing.assert_array_equal(found[format], found["parquet"])
    assert np.isnan(found["npy"]).all(axis=1).sum() == 1


def test_a_run_killed_at_any_step_ends_in_the_same_bytes_with_safetensors(images: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = {"format": "safetensors", "dtype": "float16"}
    assert finish(images, whole, **options) == 3
    for kill in (10, 15):
        finish(images, out, kill=kill, **options)
    assert finish(images, out, **options) == 3
    assert results(out) == results(whole)


def test_what_float16_cannot_hold_is_a_row_without_a_vector(images: Path, tmp_path: Path) -> None:
    class Large(PixelMeans):
        def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            found = super().embed_pixels(pixels)
            found[0] *= 1e9
            return found

    result = run(images, tmp_path / "out", embedder=Large(), dtype="float16")
    assert result.failed["not-finite"] > 0
    assert any(error == "the network gave a value that is not finite in float16" for _, _, error in result.failures)
    with pytest.raises(UserError, match="dtype float16 there, float32 now"):
        run(images, tmp_path / "out", embedder=Large())
    with pytest.raises(UserError, match="unknown dtype"):
        run(images, tmp_path / "out", dtype="float64")


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cat_merges_every_row_into_one_file(images: Path, tmp_path: Path, format: str, dtype: str) -> None:
    out = tmp_path / "out"
    run(images, out, format=format, dtype=dtype)
    expected = vectors(out, format)
    merged = merge(out, tmp_path / "all.parquet")
    assert (merged.rows, merged.dim, merged.dtype) == (21, 24, dtype)
    table = pq.read_table(tmp_path / "all.parquet")
    shards = [pq.read_table(out / f"embeddings-{n:05d}.parquet") for n in range(4)]
    assert table.select(["path", "sha256", "status"]).equals(
        pa.concat_tables(shards).select(["path", "sha256", "status"]).replace_schema_metadata(table.schema.metadata)
    )
    assert json.loads(table.schema.metadata[b"zoo.manifest"]) == verify(out).manifest
    np.testing.assert_array_equal([row or [np.nan] * 24 for row in table["embedding"].to_pylist()], expected)
    for name in ("matrix.npy", "tensors.safetensors"):
        assert [p.name for p in merge(out, tmp_path / name).files] == [name, f"{Path(name).stem}.parquet"]
        assert pq.read_schema(tmp_path / f"{Path(name).stem}.parquet").names == table.schema.names[:-1]
    np.testing.assert_array_equal(np.load(tmp_path / "matrix.npy"), expected)
    np.testing.assert_array_equal(load_file(tmp_path / "tensors.safetensors")["embedding"], expected)
    for name, message in (
        ("matrix.npy", "exists"),
        ("tensors.npy", "exists"),
        ("all.parquet", "exists"),
        ("all.txt", "ends in"),
        ("embeddings-00000.npy", "taken for a shard"),
    ):
        with pytest.raises(UserError, match=message):
            merge(out, tmp_path / name)


def test_verify_names_what_differs(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out, format="npy")
    assert verify(out).manifest["images"] == 21

    def check(match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            verify(out)
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError):
            merge(out, tmp_path / "all.npy")
        assert not list(tmp_path.glob("all*"))

    for name in ("embeddings-00001.npy", "embeddings-00003.parquet"):
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
        check(f"{name} has the sha256")
        (out / name).unlink()
        check(f"{name} is missing")
        (out / name).write_bytes(data)
    (out / "embeddings-00009.npy").touch()
    check("embeddings-00009.npy is not in the manifest")
    (out / "embeddings-00009.npy").unlink()
    recorded = json.loads((out / "_manifest.json").read_text())
    for change, match in (
        ({"ok": 21}, "'ok' is not what the shards hold"),
        ({"model": "other", "plan": "0" * 64}, "belongs to another run"),
        ({"model": "other"}, ""),
        ({"shards": [{"file": "../x.parquet", "sha256": ""}]}, "is no manifest"),
        ({"shards": 3}, "is no manifest"),
    ):
        (out / "_manifest.json").write_text(json.dumps(recorded | change))
        if match:
            check(match)
    (out / "_manifest.json").write_text("[]")
    check("is no manifest")
    (out / "_manifest.json").unlink()
    check("has no _manifest.json")
    run(images, out, format="npy")
    (out / ".zoo" / "plan.parquet").unlink()
    assert verify(out).manifest == recorded, "a folder that was copied without its state can be verified"


def test_the_commands_print_one_line_and_have_the_documented_exit_code(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    done = CliRunner().invoke(app, ["verify", str(out)])
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert "20 embeddings of 21 images in 4 shards, every hash agrees" in done.stdout
    done = CliRunner().invoke(app, ["cat", str(out), str(tmp_path / "all.parquet")])
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert "21 rows x 24 float32, read back and equal" in done.stdout


def test_duckdb_reads_shards_and_merged_files_as_they_are(images: Path, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="reads the result as a user would")
    for dtype in ("float32", "float16"):
        run(images, tmp_path / dtype, dtype=dtype)
        merge(tmp_path / dtype, tmp_path / f"{dtype}.parquet")
        for where in (f"{tmp_path}/{dtype}/*.parquet", f"{tmp_path}/{dtype}.parquet"):
            query = "select count(*), count(embedding), max(len(embedding)), sum(embedding[1])"
            rows, with_vector, dim, first = duckdb.sql(f"{query} from '{where}'").fetchall()[0]
            assert (rows, with_vector, dim) == (21, 20, 24)
            assert first == pytest.approx(np.nansum(vectors(tmp_path / dtype, "parquet")[:, 0]), rel=1e-2)


def test_datasets_reads_shards_as_they_are(images: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="reads the result as a user would")
    run(images, tmp_path / "out")
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    table = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(table) == 21
    assert type(table.features["embedding"]).__name__ == "List"
    np.testing.assert_allclose(table[0]["embedding"], vectors(tmp_path / "out", "parquet")[0], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lancedb_searches_shards_and_merged_files_as_they_are(images: Path, tmp_path: Path, dtype: str) -> None:
    lancedb = pytest.importorskip("lancedb", reason="searches the result as a user would")
    out, database = tmp_path / "out", lancedb.connect(str(tmp_path / "db"))
    run(images, out, dtype=dtype)
    merge(out, tmp_path / "all.parquet")
    found = vectors(out, "parquet").astype(np.float64)
    known = np.flatnonzero(np.isfinite(found).all(axis=1))  # bad.jpg has none
    shards = dataset([str(path) for path in sorted(out.glob("*.parquet"))])
    paths = shards.to_table()["path"].to_pylist()
    for name, data in (("shards", shards), ("merged", pq.read_table(tmp_path / "all.parquet"))):
        with pytest.raises(Exception, match="on_bad_vectors='null'"):  # it wants to be told of rows without a vector
            database.create_table("refused", data=data)
        table = database.create_table(name, data=data, on_bad_vectors="null")
        assert (table.count_rows(), table.count_rows("embedding is not null")) == (21, 20)
        for metric in ("cosine", "l2"):
            answer = table.search(found[known[3]].astype(dtype)).distance_type(metric).limit(6).to_arrow()
            expected = distances(found, found[known[3]], metric)
            nearest = known[np.argsort(expected[known])][:6]
            assert answer["path"].to_pylist() == [paths[row] for row in nearest]
            np.testing.assert_allclose(answer["_distance"].to_numpy(), expected[nearest], rtol=1e-2, atol=1e-3)


def distances(vectors: NDArray[np.float64], query: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """One minus cosine, or squared L2, of [rows, D] to [D]."""
    if metric == "l2":
        return ((vectors - query) ** 2).sum(1)
    return 1 - vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


def test_summaries_need_only_the_files(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out")
    manifest = verify(tmp_path / "out").manifest
    parts = [[entry["file"]] for entry in manifest["shards"]]
    assert summarise_parts(OutputFolder(tmp_path / "out"), {}, "k", parts).manifest["images"] == 21
