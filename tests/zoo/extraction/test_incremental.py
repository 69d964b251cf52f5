from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, assert_tidy, results, run
from numpy.typing import NDArray
from pictures import encode, fill, picture

import zoo.sources.storage as storage
from zoo.transforms.unreadable import UnreadableImage


class Counts(PixelMeans):
    def __init__(self) -> None:
        super().__init__()
        self.embedded = 0

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.embedded += len(pixels)
        return super().embed_pixels(pixels)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fill(tmp_path / "images")


@pytest.fixture
def out(images: Path, tmp_path: Path) -> Path:
    run(images, tmp_path / "out")
    return tmp_path / "out"


def change(images: Path) -> None:
    """Two added, one changed, one removed."""
    (images / "00_new.png").write_bytes(encode(picture(seed=50), "PNG"))
    (images / "zz_new.png").write_bytes(encode(picture(seed=51), "PNG"))
    (images / "00.jpeg").write_bytes(encode(picture(seed=52), "JPEG"))
    (images / "a" / "02.webp").unlink()


def vectors(out: Path) -> dict[str, list[float]]:
    tables = [pq.read_table(path) for path in sorted(out.glob("embeddings-*.parquet"))]
    return {row["path"]: row["embedding"] for table in tables for row in table.to_pylist()}


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_only_what_is_new_or_changed_is_embedded(images: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "formatted"
    run(images, out, format=format)
    change(images)
    embedder = Counts()
    result = run(images, out, embedder=embedder, update=True, format=format)
    assert embedder.embedded == 3
    assert (result.total, result.ok, result.reused) == (21, 21, 18)
    assert_tidy(out)
    assert run(images, out, format=format).reused == 21


def test_an_updated_result_is_that_of_a_new_run(images: Path, out: Path, tmp_path: Path) -> None:
    change(images)
    run(images, out, update=True)
    run(images, tmp_path / "fresh")
    updated, fresh = vectors(out), vectors(tmp_path / "fresh")
    assert list(updated) == list(fresh)
    for path in fresh:
        np.testing.assert_allclose(updated[path], fresh[path], atol=1e-5)


def test_a_shrunk_folder_leaves_no_shard_behind(images: Path, out: Path) -> None:
    shutil.rmtree(images / "a")
    result = run(images, out, update=True)
    assert result.shards == 2
    assert sorted(results(out)) == ["_manifest.json", "embeddings-00000.parquet", "embeddings-00001.parquet"]
    assert set(vectors(out)) == {str(path.relative_to(images)) for path in images.rglob("*.*")}


def test_damaged_rows_are_embedded_again(images: Path, out: Path) -> None:
    (out / "embeddings-00001.parquet").write_bytes(b"damaged")
    (images / "zz_new.png").write_bytes(encode(picture(seed=51), "PNG"))
    embedder = Counts()
    run(images, out, embedder=embedder, update=True)
    assert embedder.embedded == 7


def test_an_update_of_an_unfinished_folder_finishes_it(images: Path, out: Path) -> None:
    (out / "embeddings-00001.parquet").unlink()
    (out / "_manifest.json").unlink()
    (images / "zz_new.png").write_bytes(encode(picture(seed=51), "PNG"))
    assert run(images, out, update=True).reused == 14
    assert_tidy(out)


def test_a_first_run_may_be_an_update(images: Path, tmp_path: Path) -> None:
    assert run(images, tmp_path / "first", update=True).ok == 20


def test_files_that_could_not_be_read_are_tried_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (images / "bad.jpg").write_bytes(b"bad")
    real = storage.read_bytes

    def locked(path: bytes, **expected: int) -> bytes:
        if path.endswith(b"01.png"):
            raise UnreadableImage("no-permission", "reading it is not allowed")
        return real(path, **expected)

    monkeypatch.setattr(storage, "read_bytes", locked)
    assert run(images, out).failed == {"no-permission": 1, "not-an-image": 1}
    monkeypatch.undo()
    assert run(images, out).failed == {"no-permission": 1, "not-an-image": 1}, "only an update tries again"
    embedder = Counts()
    result = run(images, out, embedder=embedder, update=True)
    assert result.failed == {"not-an-image": 1}
    assert embedder.embedded == 1, "the bytes of the bad file are known, and bad"
    assert run(images, out, update=True).reused == 21


def test_an_unfinished_update_of_another_list_is_thrown_away(images: Path, out: Path) -> None:
    (images / "new1.png").write_bytes(encode(picture(seed=60), "PNG"))

    class Stops(PixelMeans):
        def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise KeyboardInterrupt

    before = results(out)
    with pytest.raises(KeyboardInterrupt):
        run(images, out, embedder=Stops(), update=True)
    assert results(out) == before, "an update that stopped leaves the old result whole"
    assert (out / ".zoo" / "next").exists()
    (images / "new1.png").unlink()
    run(images, out, update=True)
    assert results(out) == before
    assert_tidy(out)
