"""``zoo.read``: every shard, the rows that have an embedding, and what a notebook makes of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, run
from pictures import fill

import zoo
from zoo.errors import UserError
from zoo.search.collection import Collection
from zoo.search.index import build, open_index
from zoo.search.query import nearest

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))[:5]
NAME = "<script>alert(1)</script> & co.jpeg"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("read") / "images", 7)
    (folder / "01b_broken.jpeg").write_bytes(b"no image")
    shutil.copy(folder / "00.jpeg", folder / "05_copy.jpeg")
    return folder


@pytest.fixture(scope="module", params=["parquet", "npy", "safetensors"])
def out(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read") / "out"
    run(
        images,
        folder,
        embedder=PixelMeans(stages=True),
        format=request.param,
        dtype="float16",
        shard_size=2,
        dedupe=True,
    )
    return folder


def test_the_rows_with_an_embedding_of_every_shard_are_read(out: Path) -> None:
    tables = [pq.read_table(path) for path in sorted(out.glob("embeddings-*.parquet"))]
    assert len(tables) > 3
    ok = [row for table in tables for row in table.to_pylist() if row["status"] == "ok"]
    result = zoo.read(out)
    assert result.paths == [row["path"] for row in ok]
    assert len(result) == len(ok) == 7
    assert (result.vectors.shape, result.vectors.dtype) == ((7, 24), np.float32)
    if "embedding" in ok[0]:
        np.testing.assert_array_equal(result.vectors, [row["embedding"] for row in ok])
    assert np.isfinite(result.vectors).all()
    assert result["sha256"].tolist() == [row["sha256"] for row in ok]
    assert result["embedding"] is result.vectors
    with pytest.raises(KeyError, match="'nothing' is no column: there are path, path_bytes"):
        result["nothing"]


def test_a_result_is_cut_and_walked_through_as_a_table(out: Path) -> None:
    result = zoo.read(out, all_rows=True, outputs=["layer1"])
    whole = list(result)
    assert [row["path"] for row in whole] == result.paths
    assert set(whole[0]) == set(result.columns)
    np.testing.assert_array_equal(whole[-1]["layer1"], result["layer1"][-1])
    assert result[np.int64(-1)]["sha256"] == whole[-1]["sha256"]
    ok = result["status"] == "ok"
    for key, rows in (
        (slice(None, 3), [0, 1, 2]),
        (slice(None, None, -2), [8, 6, 4, 2, 0]),
        ([4, 2, 4], [4, 2, 4]),
        (np.array([1, -1]), [1, 8]),
        (ok, np.flatnonzero(ok).tolist()),
        ([], []),
    ):
        part = result[key]  # type: ignore[call-overload]
        assert part.paths == [result.paths[row] for row in rows]
        assert part.rows.tolist() == [result.rows[row] for row in rows]
        np.testing.assert_array_equal(part.vectors, result.vectors[rows])
        np.testing.assert_array_equal(part["layer1"], result["layer1"][rows])
        assert len(part) == len(rows)
    assert result[ok].neighbours(k=2)[0].tolist() == zoo.read(out).neighbours(k=2)[0].tolist()
    assert ("sha256" in result, "layer1" in result, "nothing" in result, 0 in result) == (True, True, False, False)
    np.testing.assert_array_equal(np.asarray(result), result.vectors)
    assert np.asarray(result, np.float64).dtype == np.float64
    for wrong in (9, -10):
        with pytest.raises(IndexError, match=f"^row {wrong}: the result has 9 rows$"):
            result[wrong]
    for wrong_rows in ([99], np.array([True, False]), np.zeros((2, 2), int), ["a", "b"], 1.5):
        with pytest.raises(IndexError, match="are no rows of 9: give a slice, a list of numbers, or a mask"):
            result[wrong_rows]  # type: ignore[call-overload]
    with pytest.raises(UserError, match=r"^outputs 'layer1': give a list of names$"):
        zoo.read(out, outputs="layer1")


def test_a_row_and_an_embedding_are_queries_without_a_network(out: Path) -> None:
    result = zoo.read(out, all_rows=True)
    row = int(np.flatnonzero(result["status"] == "ok")[2])
    found = result.search(row, k=3)
    assert (found[0].row, found[0].cosine <= 1, len(found)) == (row, True, 3)
    assert [match.row for match in found[1:]] == result.neighbours(k=2)[0][row].tolist()
    assert result.search(np.int64(row), k=3) == found
    assert result.search(result.vectors[row] * 7, k=3) == found
    assert str(found).splitlines()[0] == "rank   cosine  path"
    assert str(found).splitlines()[1].endswith(f"1.0000  {result.paths[row]}")
    failed = int(np.flatnonzero(result["status"] != "ok")[0])
    with pytest.raises(UserError, match=f"^row {failed} has no embedding, see the column status$"):
        result.search(failed)
    with pytest.raises(UserError, match=r"^row 9: the result has 9 rows$"):
        result.search(9)


def test_all_rows_and_other_outputs_are_read_when_asked_for(out: Path) -> None:
    result = zoo.read(str(out), all_rows=True, outputs=["layer1_map", "layer1"])
    assert len(result) == 9
    assert np.isnan(result.vectors).all(1).tolist() == [status != "ok" for status in result["status"]]
    assert sorted(set(result["status"])) == ["duplicate", "not-an-image", "ok"]
    assert result["layer1_map"].shape == (9, 3, 4, 4)
    np.testing.assert_allclose(result["layer1_map"].astype(float).mean((2, 3)), result["layer1"], rtol=1e-2)
    with pytest.raises(UserError, match="has no output 'layer9': it has embedding, layer1, layer1_map"):
        zoo.read(out, outputs=["layer9"])


def test_an_extraction_knows_its_folder(images: Path, tmp_path: Path) -> None:
    done = run(images, tmp_path / "out")
    assert done.read().paths == zoo.read(tmp_path / "out").paths
    assert run(images, tmp_path / "out").read(all_rows=True)["path"].tolist()[2] == "01b_broken.jpeg"


def test_pandas_polars_and_a_package_that_is_missing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = zoo.read(out, outputs=["layer1"])
    pandas = pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["path"].tolist() == result.paths
    np.testing.assert_array_equal(np.stack(frame["embedding"]), result.vectors)
    assert frame["layer1"][3].shape == (3,)
    for package, method in (("pandas", result.to_pandas), ("polars", result.to_polars)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"to_{package} needs {package}: pip install {package}"):
            method()


def test_polars_gets_arrays(out: Path) -> None:
    polars = pytest.importorskip("polars")
    result = zoo.read(out, outputs=["layer1"])
    frame = result.to_polars()
    assert frame["path"].to_list() == result.paths
    assert frame.schema["embedding"] == polars.Array(polars.Float32, 24)
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), result.vectors)


def test_neighbours_are_those_of_all_cosines(out: Path) -> None:
    result = zoo.read(out, all_rows=True)
    rows, cosines = result.neighbours(k=8)
    unit = result.vectors / np.linalg.norm(result.vectors, axis=1, keepdims=True)
    unit = unit - np.nanmean(unit, axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for row in range(len(result)):
        if np.isnan(unit[row, 0]):
            assert set(rows[row]) == {-1}
            continue
        others = [other for other in np.argsort(-(unit @ unit[row]), kind="stable") if other != row][:6]
        assert rows[row].tolist() == [*others, -1, -1]  # two rows of nine have no embedding
        np.testing.assert_allclose(cosines[row, :6], unit[others] @ unit[row], atol=1e-6)
    for wrong in (0, -1, 1.5, "3"):
        with pytest.raises(UserError, match=f"^k {wrong}: give a whole number above zero$"):
            result.neighbours(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^k 1000000000: the result has 9 rows$"):
        result.neighbours(10**9)
    with pytest.raises(UserError, match=r"is a file: give the folder of an extraction$"):
        zoo.read(out / "_manifest.json")


def test_search_finds_what_the_command_finds(tmp_path: Path) -> None:
    for photo in PHOTOS:
        shutil.copy(photo, tmp_path)
    done = zoo.extract(tmp_path, tmp_path / "out", device="cpu", backend="torch", normalize=True)
    result, query = zoo.read(tmp_path / "out"), PHOTOS[1]
    found = result.search(query, k=3)
    assert (found[0].path, len(found)) == (query.name, 3)
    assert found[0].cosine == pytest.approx(1, abs=1e-5)
    assert [result.paths[match.row] for match in found] == [match.path for match in found]
    build(Collection(tmp_path / "out"))
    collection = Collection(tmp_path / "out")
    matches = nearest(collection, open_index(collection), zoo.load()(query)[0], 3)
    assert [match.item.name for match in matches] == [match.path for match in found]
    assert result.search(query.read_bytes(), k=1) == found[:1]
    assert "data:image" not in found._repr_html_()  # nobody has said where the images are
    assert done.read().search(query, k=3)._repr_html_().count('<img src="data:image/jpeg;base64,') == 3


def test_a_notebook_shows_pictures_and_escapes_names(images: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    (folder / "00.jpeg").rename(folder / NAME.replace("/", "_"))
    done = run(folder, tmp_path / "out")
    for shown in (
        done._repr_html_(),
        done.read()._repr_html_(),
        zoo.read(tmp_path / "out", images=folder)._repr_html_(),
    ):
        assert shown.count('<img src="data:image/jpeg;base64,') == 8
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown
    first = folder / done.read().paths[1]
    first.write_bytes(first.read_bytes() + b"0")  # not the picture that was embedded
    assert done.read()._repr_html_().count("<img ") == 7
    shutil.rmtree(folder)
    assert done.read()._repr_html_().count("<img ") == 0
    assert "8 of 9 images embedded; failed: 1 not-an-image" in done._repr_html_()


def test_what_cannot_be_read_is_one_line(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        zoo.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no finished extraction"):
        zoo.read(tmp_path)
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    manifest = json.loads((copy / "_manifest.json").read_text())
    for name in ("embeddings-00001.parquet", sorted(path.name for path in copy.glob("embeddings-*"))[-1]):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
        with pytest.raises(UserError, match=f"{name} is missing or not what the manifest says"):
            zoo.read(copy)
        (copy / name).write_bytes(data)
    for change in (
        {"shards": []},
        {"shards": [{"file": "../x", "rows": 1, "sha256": ""}]},
        {"dim": "many"},
        {"dim": 10**12},
    ):
        (copy / "_manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(UserError, match=r"is damaged|not what the manifest says"):
            zoo.read(copy)


def test_readers_of_folders_find_tables_only(images: Path, tmp_path: Path) -> None:
    """No other file is left that disturbs them."""
    out = tmp_path / "out"
    run(images, out)
    build(Collection(out))
    seen = {path.name for path in out.iterdir() if not path.name.startswith((".", "_", "embeddings-"))}
    assert seen == set()
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.sql(f"select count(*), count(embedding) from '{out}/*.parquet'").fetchall() == [(9, 8)]
    (out / "_manifest.json").unlink()
    assert pyarrow.dataset.dataset(out).to_table().num_rows == 9
    assert len(pytest.importorskip("pandas").read_parquet(out)) == 9


def test_a_folder_of_an_earlier_version_opens_and_its_files_move(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    build(Collection(out))
    (out / ".zoo" / "index").rename(out / "index")
    (out / "index" / "mine.txt").write_text("of the user")
    (out / "_run.log.jsonl").rename(out / "run.log.jsonl")
    assert open_index(Collection(out)).info["indexed"] == 8
    (out / "embeddings-00001.parquet").unlink()
    run(images, out)
    log = [json.loads(line)["event"] for line in (out / "_run.log.jsonl").read_text().splitlines()]
    assert log == ["start", "end", "start", "end"]
    build(Collection(out))
    assert [path.name for path in (out / "index").iterdir()] == ["mine.txt"]
    (out / "index" / "mine.txt").rename(tmp_path / "mine.txt")
    (out / "index").rmdir()
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("emb")) == [
        ".zoo", "_manifest.json", "_run.log.jsonl",
    ]  # fmt: skip
    assert open_index(Collection(out)).info["indexed"] == 8
