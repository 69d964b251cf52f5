"""``--dedupe``: files with the same bytes are embedded once, near ones are listed; same bytes whoever is killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, assert_tidy, finish, results, run, start
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import encode, fill, picture
from PIL import Image

import zoo
from zoo import near
from zoo.copies import find_copies
from zoo.errors import EXIT_OK, UserError
from zoo.merge import merge
from zoo.search.collection import Collection
from zoo.search.index import build
from zoo.share import Share
from zoo.sources import open_source
from zoo.verify import verify

PHOTOS = sorted((Path(__file__).parents[2] / "examples" / "photos").glob("*.jpg"))[:5]


class Counts(PixelMeans):
    embedded = 0

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.embedded += len(pixels)
        return super().embed_pixels(pixels)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images; copies of three of them before, behind and beside; two files of the same size that differ."""
    root = fill(tmp_path / "images", 12)
    shutil.copy(root / "00.jpeg", root / "a" / "copy_of_00.jpeg")
    shutil.copy(root / "a" / "b" / "05.webp", root / "00_first.webp")
    shutil.copy(root / "01.png", root / "02_copy.png")
    shutil.copy(root / "01.png", root / "zz_copy.png")
    data = bytearray((root / "00.jpeg").read_bytes())
    data[-3] ^= 1
    (root / "same_size.jpeg").write_bytes(data)
    return root


COPIES = {"02_copy.png": "01.png", "a/b/05.webp": "00_first.webp", "a/copy_of_00.jpeg": "00.jpeg",
          "zz_copy.png": "01.png"}  # fmt: skip


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted(out.glob("embeddings-*.parquet")) for row in pq.read_table(shard).to_pylist()]


def pairs(out: Path) -> set[tuple[str, str]]:
    table = pq.read_table(out / "near_duplicates.parquet").to_pylist()
    return {(row["path"], row["path_of_other"]) for row in table}


def near_by_hand(out: Path, least: float) -> set[tuple[str, str]]:
    known = [row for row in rows(out) if row["embedding"] is not None]
    units = [np.array(row["embedding"]) / np.linalg.norm(row["embedding"]) for row in known]
    return {
        (known[i]["path"], known[j]["path"])
        for j in range(len(known))
        for i in range(j)
        if float(units[i] @ units[j]) >= least
    }


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
def test_copies_keep_their_rows_and_are_embedded_once(images: Path, tmp_path: Path, format: str) -> None:
    out, embedder = tmp_path / "out", Counts()
    result = run(images, out, embedder=embedder, dedupe=True, format=format, batch_size=1)
    assert (result.total, result.ok, result.duplicates, result.failed) == (17, 13, 4, {})
    assert embedder.embedded == 13
    copies = {row["path"]: row for row in rows(out) if row["status"] == "duplicate"}
    assert {path: row["error"] for path, row in copies.items()} == {
        path: f"the same bytes as {first}" for path, first in COPIES.items()
    }
    for path, row in copies.items():
        assert row["sha256"] == hashlib.sha256((images / path).read_bytes()).hexdigest()
        assert row.get("embedding") is None
    manifest = verify(out).manifest
    assert (manifest["images"], manifest["ok"], manifest["duplicates"], manifest["failed"]) == (17, 13, 4, {})
    assert merge(out, tmp_path / "all.npy").rows == 17
    assert np.isnan(np.load(tmp_path / "all.npy")).all(axis=1).sum() == 4
    assert build(Collection(out))["left_out"] == 4
    shutil.rmtree(out / "index")
    assert_tidy(out)
    run(images, tmp_path / "plain", format=format, batch_size=1)
    ones = {row["path"]: row["sha256"] for row in rows(tmp_path / "plain")}
    assert {row["path"]: row["sha256"] for row in rows(out)} == ones
    assert run(images, out, embedder=embedder, dedupe=True, format=format, batch_size=1).reused == 17
    assert embedder.embedded == 13


def test_copies_are_found_by_bytes_alone(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    same = encode(picture(seed=1), "PNG")
    for name in (b"\xff.png", b"b.png", b"c.png"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(same)
    os.mkfifo(root / "a.png")
    (root / "d.png").symlink_to("nowhere")
    (root / "e.png").symlink_to("nowhere")
    source = open_source(root)
    files = source.listing().files
    found = find_copies(source, files, 2, None)
    named = dict(zip(files["path"].to_pylist(), found["zoo.copy_of"].to_pylist(), strict=True))
    assert named == {b"a.png": -1, b"b.png": -1, b"c.png": 1, b"d.png": -1, b"e.png": -1, b"\xff.png": 1}
    digest = hashlib.sha256(same).hexdigest()
    assert found["zoo.sha256"].to_pylist() == [None, None, digest, None, None, digest]
    run(root, tmp_path / "out", dedupe=True)
    assert [row["status"] for row in rows(tmp_path / "out")] == [
        "not-a-file", "ok", "duplicate", "missing", "missing", "duplicate"
    ]  # fmt: skip


@given(contents=st.lists(st.sampled_from([b"", b"a", b"b", b"ab", b"ba", b"abc"]), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_every_copy_names_the_first_of_its_bytes(
    contents: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("contents")
    for number, content in enumerate(contents):
        (root / f"{number:02d}.png").write_bytes(content)
    source = open_source(root)
    found = find_copies(source, source.listing().files, 2, None)["zoo.copy_of"].to_pylist()
    assert found == [first if (first := contents.index(c)) < n else -1 for n, c in enumerate(contents)]


@pytest.mark.parametrize("held", [1, 10**9])
def test_near_pairs_are_those_of_a_direct_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    images = fill(tmp_path / "images", 30)
    (images / "bad.jpg").write_bytes(b"bad")
    shutil.copy(images / "01.png", images / "zz_copy.png")
    monkeypatch.setattr(near, "_HELD_BYTES", held)
    monkeypatch.setattr(near, "_PAIRS_AT_ONCE", 7)
    out = tmp_path / "out"
    result = run(images, out, dedupe=True, near=0.9)
    expected = near_by_hand(out, 0.9)
    assert 0 < len(expected) < 30 * 29 // 2
    assert pairs(out) == expected
    assert result.near_duplicates == len(expected) == verify(out).manifest["near_duplicates"]["pairs"]
    cosines = pq.read_table(out / "near_duplicates.parquet")["cosine"].to_numpy()
    assert cosines.min() >= 0.9
    assert cosines.max() <= 1


def test_the_list_of_near_pairs_ends_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "MOST_PAIRS", 5)
    assert run(fill(tmp_path / "images", 12), tmp_path / "out", dedupe=True, near=1e-6).near_duplicates == 5
    verify(tmp_path / "out")


def test_a_photograph_saved_again_is_near_the_first_with_the_shipped_network(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    for photo in PHOTOS:
        shutil.copyfile(photo, root / photo.name)
    shutil.copyfile(PHOTOS[1], root / "zz_exact.jpg")
    Image.open(PHOTOS[2]).convert("RGB").save(root / "zz_again.jpg", quality=60)
    result = zoo.extract(root, tmp_path / "out", backend="torch", device="cpu", dedupe=True)
    assert (result.ok, result.duplicates, result.near_duplicates) == (6, 1, 1)
    assert pairs(tmp_path / "out") == {(PHOTOS[2].name, "zz_again.jpg")}


def test_killed_before_any_step_and_gone_on_with_the_result_is_the_same(images: Path, tmp_path: Path) -> None:
    assert finish(images, tmp_path / "whole", dedupe=True, near=0.9, format="npy") == EXIT_OK
    for n in range(2, 100, 10):
        out = tmp_path / f"out{n}"
        killed = finish(images, out, kill=n, dedupe=True, near=0.9, format="npy") == -signal.SIGKILL
        assert finish(images, out, dedupe=True, near=0.9, format="npy") == EXIT_OK
        assert results(out) == results(tmp_path / "whole")
        assert_tidy(out)
        if not killed:
            assert n > 30
            return


def test_shares_and_races_give_the_bytes_of_one_run(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "whole", dedupe=True)
    racing = [start(images, tmp_path / "raced", dedupe=True, seconds=0.005 * i) for i in range(3)]
    shared = [start(images, tmp_path / "shared", dedupe=True, share=Share(i, 2)) for i in range(2)]
    for process in (*racing, *shared):
        process.join(60)
        assert process.exitcode == EXIT_OK
    for out in ("raced", "shared"):
        assert results(tmp_path / out) == results(tmp_path / "whole")


def test_verify_looks_at_the_near_pairs_too_and_they_are_made_again(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out, dedupe=True, near=0.9)
    before, file = results(out), out / "near_duplicates.parquet"
    for spoil in (lambda: file.unlink(), lambda: file.write_bytes(b"other")):
        spoil()
        with pytest.raises(UserError, match=r"near_duplicates\.parquet"):
            verify(out)
        run(images, out, dedupe=True, near=0.9)
        assert results(out) == before
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"duplicates": 3}))
    with pytest.raises(UserError, match="'duplicates' is not what the shards hold"):
        verify(out)


def test_what_does_not_go_together_is_one_line(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for options, message in (
        ({"near": 0.9}, "--near needs --dedupe"),
        ({"dedupe": True, "update": True}, "--update cannot keep what --dedupe found"),
        ({"dedupe": True, "near": 1.5}, "--near 1.5: give a cosine"),
    ):
        with pytest.raises(UserError, match=message):
            run(images, out, **options)
    assert not out.exists()
    run(images, out, dedupe=True)
    for options in ({}, {"dedupe": True, "near": 0.5}, {"update": True}):
        with pytest.raises(UserError, match=r"dedupe\.near 0\.99 there, (none|0\.5) now"):
            run(images, out, **options)
    (images / "more.png").write_bytes(encode(picture(seed=70), "PNG"))
    with pytest.raises(UserError, match=r"1 file added .* was started: choose another --out"):
        run(images, out, dedupe=True)
