from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import usearch.index
from hypothesis import given, settings
from hypothesis import strategies as st
from made_collection import clusters, make

from zoo.errors import UserError
from zoo.numerics.similarity import ExactSearch, centred, l2_normalize, mean_direction
from zoo.search.collection import Collection
from zoo.search.graph import HNSWSearch
from zoo.search.index import build, open_index
from zoo.search.query import nearest


def reference(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    """Nearest rows by the definition, in float64."""
    wide = vectors.astype(np.float64)
    cosines = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query)
    return np.argsort(-cosines, kind="stable")[:k].tolist()


@pytest.mark.parametrize("format", ["parquet", "npy"])
@pytest.mark.parametrize("exact", [True, False])
def test_the_nearest_are_found_and_failed_rows_are_left_out(tmp_path: Path, format: str, exact: bool) -> None:
    vectors = clusters(90, 24)
    failed = (0, 7, 8, 89)
    collection = make(tmp_path, vectors, failed=failed, shard_size=40, format=format)
    info = build(collection, exact=exact)
    assert (info["indexed"], info["left_out"]) == (86, 4)
    assert info["kind"] == ("exact" if exact else "usearch")
    opened = open_index(Collection(tmp_path))
    index, good = opened.searcher, [row for row in range(90) if row not in failed]
    # Centred by the definition, in float64: nothing depends on the vectors that are not there.
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    moved = units - units[good].mean(axis=0)
    for row in (1, 6, 41, 88):
        found, cosines = index.search(opened.directions(vectors[row : row + 1]), 5)[0]
        assert found.tolist() == [good[n] for n in reference(moved[good], moved[row], 5)]
        assert cosines[0] == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(index.vector(row), moved[row] / np.linalg.norm(moved[row]), atol=1e-6)
    assert index.vector(7) is None
    assert len(index.search(l2_normalize(vectors[1:4]), 1000)[2][0]) == 86  # more than there are


def test_cosines_of_a_crowded_collection_spread_after_centring(tmp_path: Path) -> None:
    """A part that all images share hides who is near whom; the index takes it away, and stores what it took."""
    vectors = clusters(60, 16) + 40
    units = l2_normalize(vectors)
    assert (units @ units.T).min() > 0.98
    collection = make(tmp_path, vectors)
    mean = units.astype(np.float64).mean(axis=0)
    info = build(collection)
    index = open_index(collection)
    assert index.mean is not None
    np.testing.assert_allclose(index.mean, mean, atol=1e-15)
    cosines = index.searcher.search(index.directions(vectors[:1]), 60)[0][1]
    assert (cosines[0], cosines[-1] < -0.3) == (pytest.approx(1, abs=1e-5), True)
    # The same result gives the same mean, however its rows are cut into shards.
    again = make(tmp_path / "again", vectors, shard_size=7)
    build(again)
    np.testing.assert_allclose(open_index(again).mean, index.mean, rtol=0, atol=1e-16)
    # A mean that somebody altered is not used.
    (tmp_path / ".zoo" / "index" / info["mean"]["file"]).write_bytes(b"")
    with pytest.raises(UserError, match="damaged: run `zoo index"):
        open_index(collection)


def test_an_index_of_an_earlier_version_opens_without_a_mean(tmp_path: Path) -> None:
    """Format 1 stored the unit vectors as they are, and its cosines stay those."""
    vectors = clusters(20, 8) + 5
    collection = make(tmp_path, vectors)
    build(collection)
    file = tmp_path / ".zoo" / "index" / "index.json"
    info = json.loads(file.read_text())
    np.save(tmp_path / ".zoo" / "index" / info["file"], l2_normalize(vectors))
    matrix = (tmp_path / ".zoo" / "index" / info["file"]).read_bytes()
    del info["mean"]
    file.write_text(json.dumps({**info, "format": "siamese-zoo index 1", "sha256": hashlib.sha256(matrix).hexdigest()}))
    index = open_index(collection)
    assert (index.mean, index.is_centred) == (None, False)
    rows, cosines = index.searcher.search(index.directions(vectors[3:4]), 20)[0]
    assert rows.tolist() == reference(vectors, vectors[3], 20)
    assert cosines.min() > 0.3
    assert "mean" in build(collection)  # `zoo index` again centres it
    assert open_index(collection).is_centred


@pytest.mark.parametrize("rows", [1, 5])
def test_images_that_are_all_equal_are_found(tmp_path: Path, rows: int) -> None:
    """Nothing would be left of them after centring."""
    vectors = np.repeat(clusters(1, 8), rows, axis=0)
    collection = make(tmp_path, vectors)
    build(collection)
    index = open_index(collection)
    assert [m.item.row for m in nearest(collection, index, vectors[0], 9)] == list(range(rows))


def test_a_row_at_the_mean_is_near_nothing_and_breaks_nothing() -> None:
    units = l2_normalize(np.array([[1, 0.5, 0], [1, -0.5, 0], [1, 0, 0.5], [1, 0, -0.5], [1, 0, 0]], np.float32))
    units = np.concatenate([units, np.full((1, 3), np.nan, np.float32)])
    moved = centred(units, units[4].astype(np.float64))
    assert moved[4].tolist() == [0, 0, 0]
    assert np.isnan(moved[5]).all()
    assert np.isfinite(mean_direction([units[:2], units[2:]])).all()


def test_rows_that_the_graph_cannot_reach_are_found_too() -> None:
    vectors = l2_normalize(np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32))
    sparse = usearch.index.Index(ndim=24, metric="cos", dtype="f32", connectivity=2, expansion_add=2)
    sparse.add(np.arange(200), vectors)
    sparse.expansion_search = 400
    assert min(sparse.search(vectors[:3], 200, threads=1).counts) < 200
    for row, (found, cosines) in zip(range(3), HNSWSearch(sparse).search(vectors[:3], 200), strict=True):
        assert found.tolist() == reference(vectors, vectors[row], 200)
        assert (np.diff(cosines) <= 0).all()


def test_vectors_without_a_direction_are_left_out(tmp_path: Path) -> None:
    vectors = clusters(12, 4)
    vectors[3], vectors[4, 2], vectors[5] = 0, np.inf, 1e30
    info = build(make(tmp_path, vectors))
    assert info["indexed"] == 10  # the large one has a direction


def test_a_stale_index_is_refused_and_rebuilt(tmp_path: Path) -> None:
    collection = make(tmp_path, clusters(30, 8))
    first = build(collection)
    changed = make(tmp_path, clusters(31, 8, seed=1))
    with pytest.raises(UserError, match="has changed since it was indexed: run `zoo index"):
        open_index(changed)
    second = build(changed, exact=False)
    assert open_index(changed).info == second
    left = sorted(path.name for path in (tmp_path / ".zoo" / "index").iterdir())
    assert left == sorted(["index.json", second["file"], second["mean"]["file"]])
    assert first["file"] not in left


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    collection = make(tmp_path, clusters(10, 8))
    build(collection)
    info = json.loads((tmp_path / ".zoo" / "index" / "index.json").read_text())
    info["weights_sha256"] = "1" * 64
    (tmp_path / ".zoo" / "index" / "index.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="another model"):
        open_index(collection)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "json"])
def test_a_damaged_index_is_refused(tmp_path: Path, exact: bool, harm: str) -> None:
    collection = make(tmp_path, clusters(30, 8))
    path = tmp_path / ".zoo" / "index" / build(collection, exact=exact)["file"]
    data = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(data[:-1])
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif harm == "gone":
        path.unlink()
    else:
        (path.parent / "index.json").write_text("{")
    with pytest.raises(UserError, match="damaged: run `zoo index"):
        open_index(collection)


def test_errors_say_what_cannot_be_indexed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished extraction"):
        Collection(tmp_path / "none")
    with pytest.raises(UserError, match="has no index: run"):
        open_index(make(tmp_path / "a", clusters(3, 4)))
    with pytest.raises(UserError, match="nothing to index"):
        build(make(tmp_path / "b", clusters(3, 4), failed=(0, 1, 2)))
    assert not list((tmp_path / "b" / ".zoo" / "index").iterdir())
    damaged = make(tmp_path / "c", clusters(3, 4))
    shard = tmp_path / "c" / "embeddings-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="not what the manifest says"):
        build(damaged)
    (tmp_path / "c" / "_manifest.json").write_text('{"shards": [{"file": "../x", "rows": 1, "sha256": ""}]}')
    with pytest.raises(UserError, match="is damaged"):
        Collection(tmp_path / "c")


def test_a_full_disk_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = make(tmp_path, clusters(30, 8))
    info = build(collection)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk full"):
        build(collection, exact=False)
    monkeypatch.undo()
    assert open_index(collection).info == info
    assert not list((tmp_path / ".zoo" / "index").glob("*.tmp"))


def test_recall_is_measured_and_high(tmp_path: Path) -> None:
    info = build(make(tmp_path, clusters(3000, 16), failed=tuple(range(100, 120))), exact=False)
    assert info["recall"]["sample"] == 200
    assert 0.97 <= info["recall"]["value"] <= 1


def test_items_page_over_shards(tmp_path: Path) -> None:
    collection = make(
        tmp_path, clusters(25, 4), shard_size=10, failed=(11,), paths=[b"a\xff%02d" % n for n in range(25)]
    )
    assert [item.row for item in collection.items(8, 14)] == list(range(8, 22))
    assert [item.row for item in collection.items(20, 50)] == list(range(20, 25))
    assert collection.items(25, 5) == collection.items(3, 0) == []
    assert (collection.item(11).status, collection.item(11).error) == ("truncated", "cut")
    assert (collection.item(4).path, collection.item(4).name) == (b"a\xff04", "a\\xff04")
    for row in (-1, 25):
        with pytest.raises(IndexError):
            collection.item(row)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 50), st.integers(0, 2**32), st.integers(1, 7))
def test_blocks_do_not_change_an_exact_search(count: int, dim: int, k: int, seed: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (count, dim)).astype(np.float32)  # many ties, zeros among them
    units, query = l2_normalize(vectors), l2_normalize(np.ones((1, dim), np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.numerics.similarity._BLOCK_BYTES", max(4 * dim, 32) * height)
        rows, cosines = ExactSearch(units).search(query, k)[0]
    assert len(rows) == min(k, int((~np.isnan(units[:, 0])).sum()))
    assert (np.diff(cosines) <= 0).all()
    whole = np.nan_to_num(units @ query[0], nan=-np.inf)
    np.testing.assert_allclose(cosines, -np.sort(-whole)[: len(rows)], atol=1e-6)
    np.testing.assert_allclose(whole[rows], cosines, atol=1e-6)
