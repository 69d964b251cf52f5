"""Every kind of source, through a whole extraction: rows, names, kept columns, changes, hostile files."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import PixelMeans, finish, results, run
from pictures import encode, picture

from zoo.errors import UserError
from zoo.sources import open_source


def png(seed: int) -> bytes:
    return encode(picture(seed=seed), "PNG")


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted(out.glob("embeddings-*.parquet")) for row in pq.read_table(shard).to_pylist()]


def vector(seed: int) -> list[float]:
    embedder = PixelMeans()
    return embedder.embed_pixels(embedder.preprocessing.pixels(picture(seed=seed))[None])[0].tolist()


def assert_vectors(out: Path, seeds: Iterable[int]) -> None:
    np.testing.assert_allclose([row["embedding"] for row in rows(out)], [vector(s) for s in seeds], atol=1e-5)


def tar(path: Path, members: dict[str | bytes, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def parquet(path: Path, seeds: Iterable[int], **columns: Any) -> Path:
    images = [png(seed) for seed in seeds]
    pq.write_table(pa.table({"image": [{"bytes": data, "path": None} for data in images], **columns}), path,
                   row_group_size=5)  # fmt: skip
    return path


def files(folder: Path, names: Iterable[bytes]) -> None:
    for seed, name in enumerate(names):
        path = os.path.join(bytes(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(png(seed))


# Globs and lists


def test_a_glob_names_the_images_it_matches(tmp_path: Path) -> None:
    files(tmp_path, [b"a/1.png", b"a/2.png", b"b/1.png", b"b/deep/1.png", b"a/\xff.png"])
    (tmp_path / "a" / "1.txt").touch()
    run(str(tmp_path / "*" / "*"), tmp_path / "out", keep=["folder"])
    assert [row["path"] for row in rows(tmp_path / "out")] == ["a/1.png", "a/2.png", "a/\\xff.png", "b/1.png"]
    assert [row["path_bytes"] for row in rows(tmp_path / "out")] == [None, None, b"a/\xff.png", None]
    assert [row["folder"] for row in rows(tmp_path / "out")] == ["a", "a", "a", "b"]
    assert len(open_source(str(tmp_path / "**" / "*.png")).listing().files) == 5
    assert open_source(tmp_path / "b" / "1.png").listing().files["path"].to_pylist() == [b"1.png"]
    with pytest.raises(UserError, match="no image in"):
        run(str(tmp_path / "*.jpg"), tmp_path / "none")
    with pytest.raises(UserError, match="only the column folder"):
        run(tmp_path / "a", tmp_path / "none", keep=["label"])


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_a_list_is_read_in_its_order_names_byte_for_byte(tmp_path: Path, separator: bytes) -> None:
    names = [b"z.png", b"sub/\xe9 .png", b"no extension", b"z.png", b"absent.png"]
    if separator == b"\0":
        names[1] = b"sub/new\nline.png"
    files(tmp_path, [name for name in dict.fromkeys(names) if name != b"absent.png"])
    (tmp_path / "list.txt").write_bytes(separator.join(names) + separator)
    result = run(tmp_path / "list.txt", tmp_path / "out")
    assert result.failed == {"missing": 1}
    assert [row["path_bytes"] or row["path"].encode() for row in rows(tmp_path / "out")] == names
    np.testing.assert_allclose(
        [row["embedding"] for row in rows(tmp_path / "out")[:4]], [vector(s) for s in (0, 1, 2, 0)], atol=1e-5
    )


def test_a_csv_list_keeps_columns_as_they_are(tmp_path: Path) -> None:
    files(tmp_path, [b"a,b.png", b"c.png", b"\xff.png"])
    (tmp_path / "list.csv").write_bytes(
        b'id,path,label,score,note\n007,"a,b.png",3,0.5,NA\n010,c.png,-1,2.25,"two\nlines"\n1,\xff.png,0,1.0,\n'
    )
    run(tmp_path / "list.csv", tmp_path / "out", keep=["note", "id", "label", "score"])
    found = rows(tmp_path / "out")
    assert [row["path_bytes"] or row["path"] for row in found] == ["a,b.png", "c.png", b"\xff.png"]
    assert [row["id"] for row in found] == ["007", "010", "1"]
    assert [row["label"] for row in found] == [3, -1, 0]
    assert [row["score"] for row in found] == [0.5, 2.25, 1.0]
    assert [row["note"] for row in found] == ["NA", "two\nlines", ""]
    assert_vectors(tmp_path / "out", range(3))
    for text, keep, match in (
        (b"file,label\na,1\n", [], "path"),
        (b"path,label\na,1\n", ["labels"], "labels"),
        (b"path,label\na,\xff\n", ["label"], "not UTF-8"),
        (b"path,label\na,1,2\n", [], "no readable table"),
        (b"path\n", [], "names no file"),
        (b"", [], "no readable table"),
    ):
        (tmp_path / "bad.csv").write_bytes(text)
        with pytest.raises(UserError, match=match) as caught:
            run(tmp_path / "bad.csv", tmp_path / "bad", keep=keep)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "bad").exists()


def test_changed_labels_and_a_changed_order_are_refused_or_taken_in(tmp_path: Path) -> None:
    files(tmp_path, [b"%d.png" % n for n in range(8)])
    lines = [f"{n}.png,{n % 3}" for n in range(8)]
    csv = tmp_path / "list.csv"

    def write() -> None:
        csv.write_text("\n".join(["path,label", *lines, ""]))

    write()
    run(csv, tmp_path / "out", keep=["label"])
    assert run(csv, tmp_path / "out", keep=["label"]).reused == 8
    with pytest.raises(UserError, match=r"differs in keep .* there, none now"):
        run(csv, tmp_path / "out")
    lines[2] = "2.png,7"
    write()
    with pytest.raises(UserError, match="a column that is kept changed"):
        run(csv, tmp_path / "out", keep=["label"])
    assert run(csv, tmp_path / "out", keep=["label"], update=True).reused == 8
    assert [row["label"] for row in rows(tmp_path / "out")] == [0, 1, 7, 0, 1, 2, 0, 1]
    lines.reverse()
    write()
    assert run(csv, tmp_path / "out", keep=["label"], update=True).reused == 8
    assert_vectors(tmp_path / "out", range(7, -1, -1))
    lines.append("0.png,9")
    write()
    run(csv, tmp_path / "out", keep=["label"], update=True)
    assert [row["label"] for row in rows(tmp_path / "out")][-1] == 9
    run(csv, tmp_path / "fresh", keep=["label"])
    assert [r["path"] for r in rows(tmp_path / "out")] == [r["path"] for r in rows(tmp_path / "fresh")]


# Tar files


def shards(folder: Path) -> Path:
    folder.mkdir()
    for shard in range(2):
        members: dict[str | bytes, bytes] = {}
        for n in range(4):
            seed = shard * 4 + n
            members[f"{seed:04d}.png"] = png(seed)
            members[f"{seed:04d}.cls"] = b"%d" % (seed % 3)
            members[f"{seed:04d}.json"] = json.dumps({"caption": f"no. {seed}", "w": seed / 2, "n": [1]}).encode()
        tar(folder / f"part-{shard}.tar", members)
    return folder


@pytest.mark.parametrize("name", ["", "part-*.tar", "part-{0..1}.tar"])
def test_tar_shards_are_read_in_place_with_what_stands_beside_the_images(tmp_path: Path, name: str) -> None:
    folder = shards(tmp_path / "tars")
    run(f"{folder}/{name}", tmp_path / "out", keep=["key", "cls", "caption", "w"])
    found = rows(tmp_path / "out")
    assert [row["path"] for row in found] == [f"part-{n // 4}.tar/{n:04d}.png" for n in range(8)]
    assert [row["cls"] for row in found] == [n % 3 for n in range(8)]
    assert [(row["key"], row["caption"]) for row in found] == [(f"{n:04d}", f"no. {n}") for n in range(8)]
    assert [row["w"] for row in found] == [n / 2 for n in range(8)]
    assert_vectors(tmp_path / "out", range(8))


def test_a_grown_tar_is_taken_in_by_an_update(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(6)})
    run(path, tmp_path / "out")
    before = results(tmp_path / "out")
    os.utime(path)
    assert run(path, tmp_path / "out").reused == 6
    assert results(tmp_path / "out") == before
    tar(path, {f"{n}.png": png(n) for n in (0, 1, 2, 9, 4, 5, 6)} | {"3.png": png(33)})
    with pytest.raises(UserError, match=r"2 files added .* 1 changed|added .*changed"):
        run(path, tmp_path / "out")
    assert run(path, tmp_path / "out", update=True).reused == 5
    assert_vectors(tmp_path / "out", (0, 1, 2, 9, 4, 5, 6, 33))


def test_tars_of_odd_content(tmp_path: Path) -> None:
    members: dict[str | bytes, bytes] = {
        b"../../up.png": png(0),
        b"/abs.png": png(1),
        b"\xff\xfe.png": png(2),
        b"new\nline.png": png(3),
        b"two.dots.PNG": png(4),
        b"bad.jpg": b"no picture",
        b"empty.png": b"",
    }
    path = tar(tmp_path / "odd.tar", members)
    with tarfile.open(path, "a") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    around = set(tmp_path.parent.iterdir())
    result = run(path, tmp_path / "out")
    assert result.failed == {"not-an-image": 1, "empty": 1}
    names = [(row["path_bytes"] or row["path"].encode()).removeprefix(b"odd.tar/") for row in rows(tmp_path / "out")]
    assert names == list(members)
    assert set(tmp_path.parent.iterdir()) == around
    assert {item.name for item in tmp_path.iterdir()} == {"odd.tar", "out"}


def test_what_is_wrong_with_a_tar_is_one_line(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", {"a.png": png(0), "b.png": png(1)}).read_bytes()
    bad = tmp_path / "bad.tar"
    cases = {"lies outside|no readable": whole[:1500], "is compressed": b"\x1f\x8b" + whole, "no image": b"\0" * 1024}
    for match, data in cases.items():
        bad.write_bytes(data)
        with pytest.raises(UserError, match=match) as caught:
            run(bad, tmp_path / "out")
        assert "\n" not in str(caught.value)
    with tarfile.open(tmp_path / "a.tar", "a") as file:
        file.addfile(tarfile.TarInfo("b.png"))
    with pytest.raises(UserError, match="two images called"):
        run(tmp_path / "a.tar", tmp_path / "out")
    with pytest.raises(UserError, match="no column caption"):
        run(tar(tmp_path / "c.tar", {"a.png": png(0)}), tmp_path / "out", keep=["caption"])
    with pytest.raises(UserError, match="no tar file at"):
        run(f"{tmp_path}/x-{{0..2}}.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Tables


def test_parquet_rows_in_their_order_with_kept_columns(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    label = pa.array([2, None, 1] * 4, pa.uint8())
    score = pa.array([float("nan"), 0.5, None] * 4)
    for part in range(2):
        seeds = range(part * 12, part * 12 + 12)
        parquet(
            folder / f"train-{part}.parquet",
            seeds,
            label=label,
            score=score,
            tag=pa.array(list("aéc") * 4).dictionary_encode(),
        )
    keep = ["label", "score", "tag", "image.path"]
    run(tmp_path / "set", tmp_path / "out", keep=keep, workers=4)
    found = rows(tmp_path / "out")
    assert [row["path"] for row in found] == [f"data/train-{n // 12}.parquet/{n % 12}" for n in range(24)]
    assert [row["label"] for row in found] == [2, None, 1] * 8
    assert [row["tag"] for row in found] == ["a", "é", "c"] * 8
    assert pq.read_schema(tmp_path / "out" / "embeddings-00000.parquet").field("label").type == pa.uint8()
    assert_vectors(tmp_path / "out", range(24))
    assert run(tmp_path / "set", tmp_path / "out", keep=keep).reused == 24, "NaN is no change"
    for column, match in (("nothing", "no column nothing; it has image, label"), ("image", "can be kept")):
        with pytest.raises(UserError, match=match):
            run(tmp_path / "set", tmp_path / "bad", keep=[column])
    for column in ("sha256", "embedding", "path"):
        with pytest.raises(UserError, match="has one of its own: rename it in the source"):
            run(tmp_path / "set", tmp_path / "bad", keep=[column])


def test_a_damaged_shard_of_the_result_is_made_again_from_the_middle_of_a_table(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", range(23))
    run(path, tmp_path / "out")
    before = results(tmp_path / "out")
    for shard in (3, 1):
        (tmp_path / "out" / f"embeddings-0000{shard}.parquet").unlink()
    assert run(path, tmp_path / "out", workers=4).reused == 12
    assert results(tmp_path / "out") == before


def test_rows_without_an_image_and_damaged_row_groups_are_rows(tmp_path: Path) -> None:
    images = [png(n) for n in range(20)]
    images[1], images[2] = b"no image", None
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": range(20), "photo": pa.array(images, pa.binary())}), path, row_group_size=5,
                   compression=None, use_dictionary=False)  # fmt: skip
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data[column.data_page_offset : column.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(data)
    result = run(path, tmp_path / "out")
    assert result.failed == {"not-an-image": 1, "empty": 1, "corrupt": 5}
    (tmp_path / "out" / "embeddings-00001.parquet").unlink()
    before = results(tmp_path / "out")
    run(path, tmp_path / "out", workers=1)
    assert results(tmp_path / "out").items() >= before.items()
    for end in (0, 10, len(data) - 20):
        (tmp_path / "bad.parquet").write_bytes(data[:end])
        with pytest.raises(UserError, match="no readable table") as caught:
            run(tmp_path / "bad.parquet", tmp_path / "bad")
        assert "\n" not in str(caught.value)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match="has no image column"):
        run(tmp_path / "bad.parquet", tmp_path / "bad")


def test_a_dataset_saved_by_datasets_is_read_split_after_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the real package writes what is read here")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})

    def split(seeds: range) -> Any:
        images = [{"bytes": png(s), "path": None} for s in seeds]
        return datasets.Dataset.from_dict({"image": images, "label": [s % 2 for s in seeds]}, features=features)

    both = datasets.DatasetDict({"train": split(range(7)), "test": split(range(7, 10))})
    both.save_to_disk(tmp_path / "saved")
    run(tmp_path / "saved", tmp_path / "out", keep=["label"])
    assert [row["path"].split("/")[0] for row in rows(tmp_path / "out")] == ["train"] * 7 + ["test"] * 3
    assert [row["label"] for row in rows(tmp_path / "out")] == [s % 2 for s in range(10)]
    assert_vectors(tmp_path / "out", range(10))
    run(tmp_path / "saved" / "test", tmp_path / "test")
    assert_vectors(tmp_path / "test", range(7, 10))
    both["test"].to_parquet(tmp_path / "test.parquet")
    run(tmp_path / "test.parquet", tmp_path / "of_parquet", keep=["label"])
    assert_vectors(tmp_path / "of_parquet", range(7, 10))


def save_as_datasets_does(folder: Path, seeds: range, names: list[str]) -> None:
    folder.mkdir(parents=True)
    table = pa.table({"image": [{"bytes": png(s), "path": None} for s in seeds], "label": list(seeds)})
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as s:
        s.write_table(table, max_chunksize=4)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def test_arrow_files_and_names_in_a_state_that_lead_elsewhere(tmp_path: Path) -> None:
    save_as_datasets_does(tmp_path / "set", range(9), ["data-00000-of-00001.arrow"])
    run(tmp_path / "set", tmp_path / "out", keep=["label"])
    assert [row["label"] for row in rows(tmp_path / "out")] == list(range(9))
    assert_vectors(tmp_path / "out", range(9))
    for name in ("../out/x.arrow", "/etc/passwd", "..", ""):
        save_as_datasets_does(tmp_path / "bad", range(1), [name])
        with pytest.raises(UserError, match="outside its folder"):
            run(tmp_path / "bad", tmp_path / "none")
        shutil.rmtree(tmp_path / "bad")
    data = (tmp_path / "set" / "data-00000-of-00001.arrow").read_bytes()
    for end in (0, 7, 300):
        (tmp_path / "cut.arrow").write_bytes(data[:end])
        with pytest.raises(UserError, match=r"no readable table|no row"):
            run(tmp_path / "cut.arrow", tmp_path / "none")


# What holds for all of them


@pytest.mark.parametrize("kind", ["list.csv", "a.tar", "a.parquet"])
def test_a_run_killed_at_any_step_ends_in_the_same_bytes(tmp_path: Path, kind: str) -> None:
    files(tmp_path, [b"%d.png" % n for n in range(14)])
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{n}.png,{n}\n" for n in range(14)))
    tar(tmp_path / "a.tar", {name: data for n in range(14) for name, data in
                             ((f"{n}.png", png(n)), (f"{n}.label", b"%d" % n))})  # fmt: skip
    parquet(tmp_path / "a.parquet", range(14), label=list(range(14)))
    assert finish(tmp_path / kind, tmp_path / "whole", keep=["label"]) == 0
    for kill in (9, 17):
        assert finish(tmp_path / kind, tmp_path / "out", keep=["label"], kill=kill) in (-9, 0)
    assert finish(tmp_path / kind, tmp_path / "out", keep=["label"]) == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert [row["label"] for row in rows(tmp_path / "out")] == list(range(14))


def test_a_folder_with_a_stray_tar_stays_a_folder(tmp_path: Path) -> None:
    files(tmp_path / "in", [b"a/1.png"])
    tar(tmp_path / "in" / "backup.tar", {"b.png": png(1)})
    run(tmp_path / "in", tmp_path / "out")
    assert [row["path"] for row in rows(tmp_path / "out")] == ["a/1.png"]
    (tmp_path / "notes.doc").touch()
    with pytest.raises(UserError, match="no source of images"):
        run(tmp_path / "notes.doc", tmp_path / "none")
