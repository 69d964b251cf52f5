from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, assert_tidy, results, run
from numpy.typing import NDArray
from pictures import encode, fill, picture

import zoo
from zoo.errors import UserError
from zoo.system.progress import Progress
from zoo.transforms.decode import decode


def rows(out: Path) -> list[dict[str, Any]]:
    shards = sorted(out.glob("embeddings-*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def alone(path: Path) -> NDArray[np.float32]:
    embedder = PixelMeans()
    return embedder.embed_pixels(embedder.preprocessing.pixels(decode(path.read_bytes()))[None])[0]


def test_every_image_has_its_own_row(images: Path, out: Path) -> None:
    result = run(images, out)
    assert (result.total, result.ok, result.failed, result.shards) == (20, 20, {}, 4)
    paths = sorted((str(path.relative_to(images)) for path in images.rglob("*.*")), key=os.fsencode)
    table = rows(out)
    assert [row["path"] for row in table] == paths
    for row in table:
        file = images / row["path"]
        assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert (row["width"], row["height"]) == (60, 40)
        assert (row["status"], row["error"], row["path_bytes"]) == ("ok", None, None)
        np.testing.assert_allclose(row["embedding"], alone(file), atol=1e-5)
    assert_tidy(out)


def test_the_schema_is_the_documented_one(images: Path, out: Path) -> None:
    run(images, out)
    schema = pq.read_schema(out / "embeddings-00000.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "path": "string", "path_bytes": "binary", "sha256": "string", "width": "int32", "height": "int32",
        "status": "string", "error": "string", "embedding": "fixed_size_list<element: float>[24]",
    }  # fmt: skip


def test_npy_holds_the_same_vectors_beside_the_table(images: Path, out: Path, tmp_path: Path) -> None:
    (images / "a" / "bad.jpg").write_bytes(b"bad")
    run(images, out)
    run(images, tmp_path / "npy", format="npy")
    vectors = np.concatenate([np.load(path) for path in sorted((tmp_path / "npy").glob("*.npy"))])
    assert vectors.dtype == np.float32
    tables = rows(tmp_path / "npy")
    for vector, row, whole in zip(vectors, tables, rows(out), strict=True):
        embedding = whole.pop("embedding")
        assert row == whole
        assert np.isnan(vector).all() if embedding is None else vector.tolist() == embedding


def test_an_unreadable_file_has_a_row_and_takes_nobody_elses_vector(images: Path, out: Path) -> None:
    run(images, out)
    good = {row["path"]: row["embedding"] for row in rows(out)}
    (images / "00_empty.jpg").touch()
    (images / "01_cut.jpg").write_bytes(encode(picture(200, 200), "JPEG")[:900])
    (images / "a" / "text.png").write_text("not a picture")
    (images / "a" / "folder.jpg").mkdir()
    (images / "a" / "broken.jpg").symlink_to("nowhere")
    os.mkfifo(images / "a" / "fifo.jpg")
    result = run(images, out.with_name("again"))
    assert (result.total, result.ok) == (26, 20)
    assert result.failed == {"empty": 1, "missing": 1, "not-a-file": 2, "not-an-image": 1, "truncated": 1}
    assert [failure[:2] for failure in result.failures] == [
        ("00_empty.jpg", "empty"), ("01_cut.jpg", "truncated"), ("a/broken.jpg", "missing"),
        ("a/fifo.jpg", "not-a-file"), ("a/folder.jpg", "not-a-file"), ("a/text.png", "not-an-image"),
    ]  # fmt: skip
    for row in rows(out.with_name("again")):
        if row["status"] == "ok":
            np.testing.assert_allclose(row["embedding"], good.pop(row["path"]), atol=1e-5)
        else:
            assert row["embedding"] is None
            assert row["width"] is None
            assert row["error"]
            assert (row["sha256"] is None) == (row["status"] in ("missing", "not-a-file"))
    assert not good


def test_a_folder_of_nothing_but_bad_files_is_no_error(out: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for i in range(7):
        (bad / f"{i}.jpg").touch()
    result = run(bad, out)
    assert (result.ok, result.failed) == (0, {"empty": 7})
    assert run(bad, out).reused == 7


def test_a_vector_that_is_not_finite_is_a_failed_row(images: Path, out: Path) -> None:
    class Explodes(PixelMeans):
        def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            vectors = super().embed_pixels(pixels)
            vectors[0, 3] = np.inf
            return vectors

    result = run(images, out, embedder=Explodes())
    assert result.failed == {"not-finite": 7}, "the first of each batch: of three, and at the end of a shard"
    assert all((row["embedding"] is None) == (row["status"] == "not-finite") for row in rows(out))


def test_names_of_any_bytes_are_kept(out: Path, tmp_path: Path) -> None:
    names = [b"\xff\xfe.png", b"new\nline.png", b"x" * 251 + b".png", b"a\\xff.png"]
    root = tmp_path / "odd"
    root.mkdir()
    for i, name in enumerate(names):
        with open(os.fsencode(root) + b"/" + name, "wb") as file:
            file.write(encode(picture(seed=i), "PNG"))
    run(root, out)
    table = rows(out)
    assert [row["path_bytes"] or row["path"].encode() for row in table] == sorted(names)
    assert [(row["path"], row["path_bytes"]) for row in table if row["path_bytes"]] == [
        ("\\xff\\xfe.png", b"\xff\xfe.png")
    ]


def test_two_runs_of_copies_give_the_same_bytes(images: Path, out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(images, copy, copy_function=shutil.copyfile)
    for format in ("parquet", "npy"):
        first, second = out.with_name(f"1{format}"), out.with_name(f"2{format}")
        run(images, first, format=format)
        run(copy, second, format=format, workers=1)
        assert results(first) == results(second)


def test_the_manifest_says_what_was_done_and_nothing_of_when_and_where(images: Path, out: Path) -> None:
    (images / "bad.jpg").touch()
    run(images, out)
    text = (out / "_manifest.json").read_text()
    assert str(images.parent) not in text
    manifest = json.loads(text)
    assert (manifest["images"], manifest["ok"], manifest["failed"]) == (21, 20, {"empty": 1})
    assert (manifest["model"], manifest["batch_size"], manifest["format"]) == ("pixel_means", 3, "parquet")
    assert manifest["decoder"]["max_pixels"] == 64_000_000
    assert [shard["rows"] for shard in manifest["shards"]] == [6, 6, 6, 3]
    for shard in manifest["shards"]:
        assert shard["sha256"] == hashlib.sha256((out / shard["file"]).read_bytes()).hexdigest()
    log = [json.loads(line) for line in (out / "_run.log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in log] == ["start", "end"]
    assert log[1]["images_per_second"] > 0


def test_a_complete_folder_is_left_as_it_is(images: Path, out: Path) -> None:
    run(images, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    class Unused(PixelMeans):
        def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise AssertionError("nothing is left to embed")

    for update in (False, True):
        assert run(images, out, embedder=Unused(), update=update).reused == 20
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_missing_and_damaged_parts_are_made_again(images: Path, out: Path, format: str) -> None:
    run(images, out, format=format)
    whole = results(out)
    first = next(name for name in sorted(whole) if name.startswith("embeddings-00001"))
    data = (out / first).read_bytes()
    damage = {
        "truncated": lambda path: path.write_bytes(data[:-100]),
        "one bit": lambda path: path.write_bytes(bytes([*data[:300], data[300] ^ 4, *data[301:]])),
        "footer": lambda path: path.write_bytes(bytes([*data[:-30], data[-30] ^ 1, *data[-29:]])),
        "gone": lambda path: path.unlink(),
        "empty": lambda path: path.write_bytes(b""),
        "foreign": lambda path: shutil.copy(out / first.replace("00001", "00002"), path),
    }
    for name, spoil in damage.items():
        for with_manifest in (True, False):
            spoil(out / first)
            if not with_manifest:
                (out / "_manifest.json").unlink()
            result = run(images, out, format=format)
            assert results(out) == whole, name
            assert result.reused == 14, name
            assert bool(result.notes) == (name != "gone" or format == "npy"), name
    (out / "_manifest.json").write_text("{}")
    assert run(images, out, format=format).reused == 20
    assert results(out) == whole


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"embedder": PixelMeans(name="other")}, "model pixel_means there, other now"),
        ({"batch_size": 4}, "batch_size 3 there, 4 now"),
        ({"shard_size": 7}, "shard_size 6 there, 7 now"),
        ({"format": "npy"}, "format parquet there, npy now"),
        ({"max_pixels": 1000}, "decoder.max_pixels 64000000 there, 1000 now"),
    ],
)
@pytest.mark.parametrize("update", [False, True])
def test_another_run_into_the_same_folder_is_refused(
    images: Path, out: Path, options: dict[str, Any], named: str, update: bool
) -> None:
    run(images, out)
    before = results(out)
    with pytest.raises(UserError, match=named) as caught:
        run(images, out, **options, update=update)
    assert "another --out" in str(caught.value)
    assert results(out) == before


def test_a_new_version_of_the_decoder_is_refused(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(images, out)
    monkeypatch.setattr("zoo.extraction.fingerprint.DECODER", {"library": "Pillow", "version": "99"})
    with pytest.raises(UserError, match=r"decoder\.version .* there, 99 now"):
        run(images, out)


def test_a_changed_folder_is_refused_and_the_difference_named(images: Path, out: Path) -> None:
    run(images, out)
    (images / "a" / "new1.png").write_bytes(encode(picture(seed=77), "PNG"))
    (images / "a" / "new2.png").write_bytes(encode(picture(seed=78), "PNG"))
    (images / "00.jpeg").write_bytes(encode(picture(seed=79), "JPEG"))
    (images / "01.png").unlink()
    with pytest.raises(UserError, match=r"2 files added \(first 'a/new1.png'\), 1 file changed \(first '00.jpeg'\), "
                                        r"1 file removed \(first '01.png'\) .*--update"):  # fmt: skip
        run(images, out)


def test_the_same_bytes_with_another_time_are_no_change(images: Path, out: Path) -> None:
    run(images, out)
    before = results(out)
    for path in images.rglob("*.*"):
        os.utime(path)
    assert run(images, out).reused == 20
    assert results(out) == before
    target = images / "00.jpeg"
    data = bytearray(target.read_bytes())
    data[-3] ^= 1
    target.write_bytes(data)
    with pytest.raises(UserError, match="1 file changed"):
        run(images, out)


def test_files_that_change_or_vanish_during_the_run_have_their_rows(images: Path, out: Path) -> None:
    class Meddles(PixelMeans):
        def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            (images / "a" / "b" / "17.webp").unlink(missing_ok=True)
            (images / "a" / "b" / "16.png").write_bytes(encode(picture(seed=99), "PNG"))
            return super().embed_pixels(pixels)

    result = run(images, out, embedder=Meddles(), workers=1)
    assert result.failed == {"changed": 1, "missing": 1}
    with pytest.raises(UserError, match=r"1 file changed .*, 1 file removed"):
        run(images, out)
    assert run(images, out, update=True).failed == {}


def test_embeddings_of_unknown_making_are_not_overwritten(images: Path, out: Path) -> None:
    run(images, out)
    shutil.rmtree(out / ".zoo")
    with pytest.raises(UserError, match="another --out"):
        run(images, out)


def test_the_output_may_lie_among_the_images(images: Path) -> None:
    for out in (images / "out", images):
        assert run(images, out).total == 20
        assert run(images, out).reused == 20


def test_what_cannot_be_run_is_one_line(images: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for options, message in (
        ({"batch_size": 0}, "batch size 0: give"),
        ({"shard_size": 0}, "shard size 0: give"),
        ({"workers": 0}, "workers 0: give"),
        ({"format": "csv"}, "csv"),
        ({"max_pixels": 10**9}, "max pixels 1000000000: give"),
    ):
        with pytest.raises(UserError, match=message):
            run(images, out, **options)
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "absent", out)
    assert not out.exists()
    for bad, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "below", "Not a directory")):
        with pytest.raises(UserError, match=message):
            run(images, bad)


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    images: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "bad.jpg").touch()
    with Progress("images", seconds_per_line=0) as progress:
        run(images, out, progress=progress)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("3 of 21 images, ")
    assert " images/s, about " in lines[0]
    assert lines[-1].startswith("21 of 21 images, ")
    assert lines[-1].endswith(", failed 1")


def test_parameters_of_one_image_and_one_row_shards(out: Path, tmp_path: Path) -> None:
    fill(tmp_path / "one", 1)
    assert run(tmp_path / "one", out, batch_size=1, shard_size=1).ok == 1
    fill(tmp_path / "five", 5)
    assert run(tmp_path / "five", tmp_path / "out5", batch_size=10, shard_size=1).shards == 5


def test_a_folder_goes_on_with_the_model_that_it_was_begun_with(images: Path, tmp_path: Path) -> None:
    """Another version of the package has another default."""
    out = tmp_path / "out"
    zoo.extract(images, out, model="byol_r18_mini.tin32", device="cpu")
    before = results(out)
    opened: list[str] = []
    again = zoo.extract(images, out, device="cpu", on_open=lambda model: opened.append(str(model.identity()["model"])))
    assert (opened, results(out), again.reused) == (["byol_r18_mini.tin32"], before, again.total)
    with pytest.raises(UserError, match=r"model byol_r18_mini\.tin32 there, .*: add --model byol_r18_mini\.tin32, or"):
        zoo.extract(images, out, model="simclr_r18_mini", device="cpu")
