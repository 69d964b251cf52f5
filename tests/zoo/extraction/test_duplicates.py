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
from zoo.cli.messages import print_extraction
from zoo.embeddings.merge import merge
from zoo.embeddings.verify import verify
from zoo.errors import EXIT_OK, UserError
from zoo.extraction import near_duplicates
from zoo.extraction.exact_duplicates import FileReader, KnownFiles, find_exact_duplicates
from zoo.extraction.partition import Partition
from zoo.search.collection import Collection
from zoo.search.index import build
from zoo.sources import open_source

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))[:5]


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
    table = pq.read_table(out / "_near_duplicates.parquet").to_pylist()
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
        first = next(other for other in rows(out) if other["path"] == COPIES[path])
        assert (row["width"], row["height"]) == (first["width"], first["height"]) != (None, None)
    manifest = verify(out).manifest
    assert (manifest["images"], manifest["ok"], manifest["duplicates"], manifest["failed"]) == (17, 13, 4, {})
    assert merge(out, tmp_path / "all.npy").rows == 17
    assert np.isnan(np.load(tmp_path / "all.npy")).all(axis=1).sum() == 4
    assert build(Collection(out))["left_out"] == 4
    shutil.rmtree(out / ".zoo" / "index")
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
    found = find_exact_duplicates(files, KnownFiles.nothing(6), FileReader(source, 2, 10**6))
    named = dict(zip(files["path"].to_pylist(), found["zoo.copy_of"].to_pylist(), strict=True))
    assert named == {b"a.png": -1, b"b.png": -1, b"c.png": 1, b"d.png": -1, b"e.png": -1, b"\xff.png": 1}
    digest = hashlib.sha256(same).hexdigest()
    assert found["zoo.sha256"].to_pylist() == [None, None, digest, None, None, digest]
    shape = list(picture(seed=1).size)
    assert [found[name][2].as_py() for name in ("zoo.width", "zoo.height")] == shape
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
    known = KnownFiles.nothing(len(contents))
    found = find_exact_duplicates(source.listing().files, known, FileReader(source, 2, 10**6))
    assert found["zoo.copy_of"].to_pylist() == [
        first if (first := contents.index(c)) < n else -1 for n, c in enumerate(contents)
    ]


@pytest.mark.parametrize("held", [1, 10**9])
def test_near_pairs_are_those_of_a_direct_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    images = fill(tmp_path / "images", 30)
    (images / "bad.jpg").write_bytes(b"bad")
    shutil.copy(images / "01.png", images / "zz_copy.png")
    monkeypatch.setattr(near_duplicates, "_HELD_BYTES", held)
    monkeypatch.setattr(near_duplicates, "_ROWS_AT_ONCE", 7)
    out = tmp_path / "out"
    result = run(images, out, dedupe=True, near=0.9)
    expected = near_by_hand(out, 0.9)
    assert 0 < len(expected) < 30 * 29 // 2
    assert pairs(out) == expected
    assert result.near_duplicates == len(expected) == verify(out).manifest["near_duplicates"]["pairs"]
    cosines = pq.read_table(out / "_near_duplicates.parquet")["cosine"].to_numpy()
    assert cosines.min() >= 0.9
    assert cosines.max() <= 1
    assert groups(out) == groups_by_hand(out, 0.9)
    assert result.near_groups == (len({group for group, *_ in groups(out).values()}), len(groups(out)))


def test_the_cosine_1_finds_all_equal_embeddings(tmp_path: Path) -> None:
    """In float32 the cosine of a vector with itself is often .99999994: a threshold of 1 means equal."""
    images = fill(tmp_path / "images", 12)
    expected = set()
    for path in sorted(images.rglob("*.png")):
        again = path.with_name(f"{path.stem}_again.png")
        with Image.open(path) as image:
            image.save(again, compress_level=0)
        expected.add((path.relative_to(images).as_posix(), again.relative_to(images).as_posix()))
    assert len(expected) > 2
    run(images, tmp_path / "out", dedupe=True, near=1)
    assert pairs(tmp_path / "out") == expected
    run(images, tmp_path / "nearly", dedupe=True, near=0.9999999)
    assert pairs(tmp_path / "nearly") == expected


def groups(out: Path) -> dict[str, tuple[int, str, float]]:
    table = pq.read_table(out / "_near_duplicate_groups.parquet").to_pylist()
    return {row["path"]: (row["group"], row["path_of_nearest"], round(row["cosine"], 5)) for row in table}


def groups_by_hand(out: Path, least: float) -> dict[str, tuple[int, str, float]]:
    """Grow each group from its first image; the nearest of each image by a loop over all."""
    known = {row["path"]: np.array(row["embedding"]) for row in rows(out) if row["embedding"] is not None}
    units = {path: vector / np.linalg.norm(vector) for path, vector in known.items()}
    near = {path: {o for p in near_by_hand(out, least) if path in p for o in p} - {path} for path in units}
    found: dict[str, tuple[int, str, float]] = {}
    number = 0
    for first in units:
        if first in found or not near[first]:
            continue
        group = {first}
        while more := {other for path in group for other in near[path]} - group:
            group |= more
        for path in group:
            nearest = max(near[path], key=lambda other: float(units[path] @ units[other]))
            found[path] = number, nearest, round(float(units[path] @ units[nearest]), 5)
        number += 1
    return found


def test_the_list_of_near_pairs_ends_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so; the groups hold every image none the less."""
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 5)
    out = tmp_path / "out"
    result = run(fill(tmp_path / "images", 12), out, dedupe=True, near=1e-6)
    assert (result.near_duplicates, result.near_pairs_written, result.near_groups) == (66, 5, (1, 12))
    print_extraction(result, out)
    said = capsys.readouterr().out
    assert f"the first 5 of 66 pairs of near duplicates: {out}/_near_duplicates.parquet; the groups are of all" in said
    assert f"12 images in 1 group of them: {out}/_near_duplicate_groups.parquet" in said
    near = verify(out).manifest["near_duplicates"]
    assert (near["pairs"], near["pairs_found"], near["groups"]["images"]) == (5, 66, 12)
    assert len(pq.read_table(out / "_near_duplicate_groups.parquet")) == 12


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
        assert not run(images, out, dedupe=True, near=0.9, format="npy").missing
        assert results(out) == results(tmp_path / "whole")
        assert_tidy(out)
        if not killed:
            assert n > 30
            return
    pytest.fail("the command was killed every time: larger n are needed to see it end")


def one_by_one(images: Path, out: Path, **options: Any) -> Any:
    """A batch of one image gives the same digits whatever is embedded beside it."""
    return run(images, out, dedupe=True, near=0.9, batch_size=1, **options)


def change(images: Path) -> None:
    """First ones removed, changed, and preceded by a new copy; new copies of old and of new files; a file renamed."""
    (images / "01.png").unlink()  # 02_copy.png comes after it
    (images / "00_first.webp").write_bytes(encode(picture(seed=60), "WEBP"))  # a/b/05.webp has its bytes no longer
    shutil.copy(images / "00.jpeg", images / "-before.jpeg")
    shutil.copy(images / "06.jpeg", images / "zz_of_old.jpeg")
    for name in ("new.png", "zz_of_new.png"):
        (images / name).write_bytes(encode(picture(seed=61), "PNG"))
    (images / "a" / "02.webp").rename(images / "a" / "renamed.webp")


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_an_update_gives_the_bytes_of_a_new_run_and_embeds_only_new_bytes(
    images: Path, tmp_path: Path, format: str
) -> None:
    out, embedder = tmp_path / "out", Counts()
    one_by_one(images, out, format=format)
    change(images)
    result = one_by_one(images, out, embedder=embedder, update=True, format=format)
    fresh = one_by_one(images, tmp_path / "fresh", format=format)
    assert results(out) == results(tmp_path / "fresh")
    assert embedder.embedded == 3, "00_first.webp, new.png, and a/renamed.webp, whose bytes nobody looked for before"
    assert {row["path"]: row["error"] for row in rows(out) if row["status"] == "duplicate"} == {
        "00.jpeg": "the same bytes as -before.jpeg",
        "a/copy_of_00.jpeg": "the same bytes as -before.jpeg",
        "zz_copy.png": "the same bytes as 02_copy.png",
        "zz_of_new.png": "the same bytes as new.png",
        "zz_of_old.jpeg": "the same bytes as 06.jpeg",
    }
    assert result.near_duplicates == fresh.near_duplicates == len(pairs(out)) > 0
    if format == "parquet":
        assert pairs(out) == near_by_hand(out, 0.9)
    verify(out)
    assert_tidy(out)
    assert one_by_one(images, out, embedder=embedder, update=True, format=format).reused == result.total
    assert embedder.embedded == 3


Folder = dict[str, int]  # which of a few contents a file has


@given(
    before=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 4), min_size=1),
    after=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 4), min_size=1),
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_any_update_gives_the_bytes_of_a_new_run(
    before: Folder, after: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("any")
    contents = [encode(picture(seed=seed), "BMP") for seed in range(3)] + [b"no image", b"BM, and truncated"]
    assert len({len(content) for content in contents[:3]}) == 1
    images, embedder = root / "images", Counts()
    for files in (before, after):
        images.mkdir(exist_ok=True)
        for name in "abcdefgh":
            path = images / f"{name}.bmp"
            if name not in files:
                path.unlink(missing_ok=True)
            elif not path.exists() or path.read_bytes() != contents[files[name]]:
                path.write_bytes(contents[files[name]])
        if files is before:
            one_by_one(images, root / "out", shard_size=3)
    one_by_one(images, root / "out", shard_size=3, update=True, embedder=embedder)
    one_by_one(images, root / "fresh", shard_size=3)
    assert results(root / "out") == results(root / "fresh")
    stayed = {before[name] for name in before if before[name] == after.get(name)}
    assert embedder.embedded <= len({seed for seed in after.values() if seed < 3 and seed not in stayed})


def test_an_update_killed_before_any_step_and_gone_on_with_is_the_same(images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dedupe": True, "near": 0.9, "batch_size": 1}
    run(images, tmp_path / "before", **options)
    change(images)
    run(images, tmp_path / "fresh", **options)
    for n in range(1, 400, 17):
        out = tmp_path / f"out{n}"
        shutil.copytree(tmp_path / "before", out)
        killed = finish(images, out, kill=n, update=True, **options) == -signal.SIGKILL
        assert not run(images, out, update=True, **options).missing
        assert results(out) == results(tmp_path / "fresh")
        assert_tidy(out)
        if not killed:
            assert n > 40
            return
    pytest.fail("the command was killed every time: larger n are needed to see it end")


def test_updates_in_shares_and_races_give_the_bytes_of_a_new_run(images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dedupe": True, "near": 0.9, "batch_size": 1}
    run(images, tmp_path / "raced", **options)
    shutil.copytree(tmp_path / "raced", tmp_path / "shared")
    change(images)
    run(images, tmp_path / "fresh", **options)
    racing = [start(images, tmp_path / "raced", update=True, seconds=0.005 * i, **options) for i in range(3)]
    shared = [start(images, tmp_path / "shared", update=True, partition=Partition(i, 2), **options) for i in range(2)]
    for process in (*racing, *shared):
        process.join(60)
        assert process.exitcode == EXIT_OK
    for out in ("raced", "shared"):
        assert results(tmp_path / out) == results(tmp_path / "fresh")


def test_a_copy_whose_first_was_lost_is_embedded_in_an_update(images: Path, tmp_path: Path) -> None:
    out, embedder = tmp_path / "out", Counts()
    one_by_one(images, out)
    (images / "01.png").unlink()
    (out / "embeddings-00000.parquet").write_bytes(b"damaged")
    one_by_one(images, out, update=True, embedder=embedder)
    one_by_one(images, tmp_path / "fresh")
    assert results(out) == results(tmp_path / "fresh")
    assert embedder.embedded >= 1


def test_shares_and_races_give_the_bytes_of_one_run(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "whole", dedupe=True)
    racing = [start(images, tmp_path / "raced", dedupe=True, seconds=0.005 * i) for i in range(3)]
    shared = [start(images, tmp_path / "shared", dedupe=True, partition=Partition(i, 2)) for i in range(2)]
    for process in (*racing, *shared):
        process.join(60)
        assert process.exitcode == EXIT_OK
    for out in ("raced", "shared"):
        assert results(tmp_path / out) == results(tmp_path / "whole")


def test_verify_looks_at_the_near_pairs_too_and_they_are_made_again(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out, dedupe=True, near=0.9)
    before, file = results(out), out / "_near_duplicates.parquet"
    for spoil in (lambda: file.unlink(), lambda: file.write_bytes(b"other")):
        spoil()
        with pytest.raises(UserError, match=r"near_duplicates\.parquet"):
            verify(out)
        run(images, out, dedupe=True, near=0.9)
        assert results(out) == before
    manifest = json.loads((out / "_manifest.json").read_text())
    (out / "_manifest.json").write_text(json.dumps(manifest | {"duplicates": 3}))
    with pytest.raises(UserError, match="'duplicates' is not what the shards hold"):
        verify(out)


def test_what_does_not_go_together_is_one_line(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for options, message in (
        ({"near": 0.9}, "--near needs --dedupe"),
        ({"dedupe": True, "near": 1.5}, "--near 1.5: give a cosine"),
    ):
        with pytest.raises(UserError, match=message):
            run(images, out, **options)
    assert not out.exists()
    run(images, out, dedupe=True)
    for options, now in (({}, "none"), ({"dedupe": True, "near": 0.5}, r"0\.5"), ({"update": True}, "none")):
        with pytest.raises(UserError, match=rf"dedupe\.near auto there, {now} now"):
            run(images, out, **options)
    (images / "more.png").write_bytes(encode(picture(seed=70), "PNG"))
    with pytest.raises(UserError, match=r"1 file added .* was started: add --update, or choose another --out"):
        run(images, out, dedupe=True)
