"""Collections as people have them: what used to be lost without a word, one test per kind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import run
from pictures import encode, picture

from zoo.errors import UserError
from zoo.sources import open_source
from zoo.sources.base import rows_of


def png(seed: int) -> bytes:
    return encode(picture(seed=seed), "PNG")


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted(out.glob("embeddings-*.parquet")) for row in pq.read_table(shard).to_pylist()]


def names(source: Any) -> list[bytes]:
    found: list[bytes] = source.listing().files["path"].to_pylist()
    return found


def read_all(source: Any) -> list[bytes]:
    files = source.listing().files
    return [source.read(row) for row in rows_of(files, np.arange(len(files)))]


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


# ---------------------------------------------------------------- what is left out


def test_hidden_files_are_left_out_and_everything_is_told_by_extension(tmp_path: Path) -> None:
    for name in (
        "a.png",
        "._a.png",
        ".hidden/b.png",
        ".DS_Store",
        "b.TXT",
        "c.txt",
        "README",
        "d/e.mov",
        "x.averylongextension",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(0))
    expected = {"hidden": 3, ".txt": 2, "": 2, ".mov": 1}
    listing = open_source(tmp_path).listing()
    assert (listing.files["path"].to_pylist(), listing.left_out) == ([b"a.png"], expected)
    assert listing.other_files == sum(expected.values())
    glob = open_source(str(tmp_path / "**" / "*")).listing()
    assert glob.files["path"].to_pylist() == [b"a.png"]
    assert {".txt", "", ".mov"} <= glob.left_out.keys()
    members = [
        ("a.png", png(0)),
        ("._a.png", b"\0\5\x16\7"),
        ("__MACOSX/._b.png", b""),
        ("note.txt", b""),
        ("./c.png", png(1)),
    ]
    packed = open_source(tar(tmp_path / "x.tar", members)).listing()
    assert packed.files["path"].to_pylist() == [b"x.tar/a.png", b"x.tar/./c.png"]
    assert packed.left_out == {"hidden": 2, ".txt": 1}


def test_a_folder_of_nothing_but_heic_says_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.sources.file_listing._EXTENSIONS", frozenset([b".png"]))  # as without the extra
    monkeypatch.setattr("zoo.sources.image_files._EXTENSIONS", frozenset([b".png"]))
    for name in ("a.HEIC", "b.heic", "c.mov"):
        (tmp_path / name).touch()
    for place in (tmp_path, f"{tmp_path}/*"):
        with pytest.raises(UserError, match=r"\(3 other files\): 2 \.heic, 1 \.mov.*siamese-zoo\[heic\]"):
            open_source(place).listing()


def test_many_kinds_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    for n in range(80):
        (tmp_path / f"b.x{n}").touch()
    left_out = open_source(tmp_path).listing().left_out
    assert len(left_out) == 51
    assert left_out["other kinds"] == 30


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    kinds = {
        "a PDF document": b"%PDF-1.7\n",
        "an HTML page": b"\n<!-- x --><!DOCTYPE html>\n<html><body>404</body></html>",
        "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        "an MP4 video": b"\0\0\0\x18ftypisom" + bytes(40),
        "a ZIP archive": b"PK\3\4" + bytes(40),
        "a HEIC image": b"\0\0\0\x18ftypheic" + bytes(40),
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "a JPEG XL image": b"\xff\x0a" + bytes(30),
        "a Photoshop document": b"8BPS\0\1" + bytes(30),
        "a JSON file": b'{"message": "not found"}',
        "a text file": b"AccessDenied",
        "a macOS resource file": b"\0\5\x16\7" + bytes(30),
    }
    for n, data in enumerate(kinds.values()):
        (tmp_path / f"{n:02}.jpg").write_bytes(data)
    run(tmp_path, tmp_path / "out")
    for row, kind in zip(rows(tmp_path / "out"), kinds, strict=True):
        assert row["status"] == "not-an-image" or kind == "a HEIC image"
        assert row["error"].startswith(kind) or kind == "a HEIC image"


def test_avif_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.avif").write_bytes(encode(picture(), "AVIF"))
    assert run(tmp_path, tmp_path / "out").ok == 1


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic")
    pillow_heif.register_heif_opener()
    (tmp_path / "a.HEIC").write_bytes(encode(picture(64, 48), "HEIF", quality=90))
    assert run(tmp_path, tmp_path / "out").ok == 1


# ---------------------------------------------------------------- tar files


def test_members_of_a_key_that_stand_apart_keep_their_values(tmp_path: Path) -> None:
    images = [(f"{n}.png", png(n)) for n in range(3)]
    labels = [(f"{n}.cls", b"%d" % n) for n in (2, 0, 1)]
    extra = [(f"{n}.json", json.dumps({"id": f"x{n}"}).encode()) for n in range(3)]
    adjacent = [member for group in zip(images, sorted(labels), extra, strict=True) for member in group]
    for order in ([*images, *labels, *extra], [*labels, *extra, *images], adjacent):
        listing = open_source(tar(tmp_path / "a.tar", order), ["cls", "id"]).listing()
        assert listing.files["cls"].to_pylist() == [0, 1, 2]
        assert listing.files["id"].to_pylist() == ["x0", "x1", "x2"]
        assert listing.files["path"].to_pylist() == [b"a.tar/0.png", b"a.tar/1.png", b"a.tar/2.png"]
        assert listing.left_out == {}
    twice = [("0.png", png(0)), ("1.png", png(1)), ("0.jpg", png(2)), ("0.cls", b"0"), ("1.cls", b"1"), ("2.cls", b"2")]
    listing = open_source(tar(tmp_path / "c.tar", twice), ["cls"]).listing()
    assert listing.files["path"].to_pylist() == names(open_source(tmp_path / "c.tar"))
    assert (listing.files["cls"].to_pylist(), listing.left_out) == ([0, 1, 0], {".cls": 1})
    source = open_source(tar(tmp_path / "b.tar", [*images, *labels]), ["cls"])
    assert read_all(source) == [png(n) for n in range(3)]


def test_a_value_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [("1.cls", b"1"), ("1.png", png(0)), ("2.png", png(1)), ("1.cls", b"2")])
    with pytest.raises(UserError, match=r"1\.cls is twice"):
        open_source(path, ["cls"]).listing()
    assert len(open_source(path).listing().files) == 2


# ---------------------------------------------------------------- Hugging Face's layouts


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_beside_images_can_be_kept(tmp_path: Path, kind: str) -> None:
    for name in ("train/a.png", "train/b.png", "train/sub/c.png", "test/d.png", "e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(0))

    def write(folder: str, table: list[dict[str, Any]]) -> None:
        path = tmp_path / folder / f"metadata.{kind}"
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        elif kind == "csv":
            lines = [",".join(table[0]), *(",".join(map(str, row.values())) for row in table)]
            path.write_text("\n".join(lines) + "\n")
        else:
            pq.write_table(pa.Table.from_pylist(table), path)

    bee = {"file_name": "b.png", "label": 1, "text": "bee"}
    sea, none = bee | {"file_name": "sub\\c.png", "label": 2, "text": "sea"}, {"label": 3, "text": "none"}
    write("train", [bee, sea, {"file_name": "gone.png", **none}])
    write("test", [{"file_name": "d.png", "label": 4, "text": "dee"}])
    files = open_source(tmp_path, ["text", "folder", "label"]).listing().files
    assert files.select(["path", "label", "text", "folder"]).to_pylist() == [
        {"path": b"e.png", "label": None, "text": None, "folder": ""},
        {"path": b"test/d.png", "label": 4, "text": "dee", "folder": "test"},
        {"path": b"train/a.png", "label": None, "text": None, "folder": "train"},
        {"path": b"train/b.png", "label": 1, "text": "bee", "folder": "train"},
        {"path": b"train/gone.png", "label": 3, "text": "none", "folder": "train"},
        {"path": b"train/sub/c.png", "label": 2, "text": "sea", "folder": "train/sub"},
    ]
    result = run(tmp_path, tmp_path / "out", keep=["label"])
    assert (result.ok, result.failed) == (5, {"missing": 1})
    with pytest.raises(UserError, match=r"no column lable: its metadata have file_name, label, text"):
        open_source(tmp_path, ["lable"]).listing()
    assert len(open_source(tmp_path).listing().files) == 5, "without --keep they say nothing"


def test_metadata_that_name_other_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.png", "in/b.npy", "secret.png"):
        (tmp_path / name).write_bytes(png(0) if name.endswith("png") else b"\x93NUMPY")
    paths = ["a.png", "b.npy", "../secret.png", str(tmp_path / "secret.png")]
    (tmp_path / "in" / "metadata.csv").write_text("file_name,n\n" + "".join(f"{p},{n}\n" for n, p in enumerate(paths)))
    run(tmp_path / "in", tmp_path / "out", keep=["n"])
    assert {row["n"]: row["status"] for row in rows(tmp_path / "out")} == {
        0: "ok", 1: "not-an-image", 2: "changed", 3: "changed",
    }  # fmt: skip


def test_metadata_as_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "metadata.csv").write_text("label,file_name\n007,a.png\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "007", "n": 1.5}\n\n')
    for name in ("metadata.csv", "metadata.jsonl"):
        files = open_source(tmp_path / name, ["label"]).listing().files
        assert files.select(["path", "label"]).to_pylist() == [{"path": b"a.png", "label": "007"}]
    (tmp_path / "other.csv").write_text("id,image\n1,a.png\n")
    with pytest.raises(UserError, match=r"no column path or file_name.* it has id, image"):
        open_source(tmp_path / "other.csv").listing()
    assert names(open_source(tmp_path / "other.csv", image_column="image")) == [b"a.png"]
    (tmp_path / "bad.jsonl").write_text('{"file_name": "a.png"}\n[1]\n')
    with pytest.raises(UserError, match="line 2 is no JSON object"):
        open_source(tmp_path / "bad.jsonl").listing()


IMAGES = [png(n) for n in range(4)]
PALETTE = pa.dictionary(pa.int32(), pa.binary())


@pytest.mark.parametrize(
    "type", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_images_in_any_type_of_bytes(tmp_path: Path, type: pa.DataType, nested: bool, kind: str) -> None:
    column = pa.array(IMAGES, pa.binary())
    column = column.dictionary_encode() if pa.types.is_dictionary(type) else column.cast(type)
    if nested:
        column = pa.StructArray.from_arrays([column, pa.array(["x"] * 4)], ["bytes", "path"])
    table, path = pa.table({"picture": column, "label": [0, 1, 2, 3]}), tmp_path / f"a.{kind}"
    if kind == "parquet":
        try:
            pq.write_table(table, path)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            pytest.skip(str(error))
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    source = open_source(path, ["label"])
    assert read_all(source) == IMAGES
    assert source.listing().files["label"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_with_a_path_and_no_bytes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "images").mkdir()
    for n, data in enumerate(IMAGES):
        (tmp_path / "images" / f"{n}.png").write_bytes(data)
    absolute = str(tmp_path / "images" / "1.png")
    paths = ["images/0.png", absolute, "x", "images/gone.png", None]
    mixed = [{"bytes": IMAGES[2] if path == "x" else None, "path": path} for path in paths]
    table = pa.table({"image": mixed, "file_name": [f"images/{n}.png" for n in range(4)] + [None], "n": range(5)})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    run(path, tmp_path / "out", keep=["n"])
    found = rows(tmp_path / "out")
    assert [(row["status"], row["n"]) for row in found] == [
        ("ok", 0),
        ("ok", 1),
        ("ok", 2),
        ("missing", 3),
        ("empty", 4),
    ]
    run(path, tmp_path / "named", image_column="file_name")
    assert [row["status"] for row in rows(tmp_path / "named")] == ["ok"] * 4 + ["empty"]
    assert rows(tmp_path / "named")[2]["embedding"] == found[2]["embedding"]
    assert json.loads((tmp_path / "named" / "_manifest.json").read_bytes())["image_column"] == "file_name"


def test_a_column_is_chosen_by_name_and_an_error_lists_those_there(tmp_path: Path) -> None:
    table = pa.table({"photo": IMAGES, "mask": IMAGES[::-1], "label": [0, 1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"--image-column; it has photo \(binary\), mask \(binary\), label \(int64\)"):
        open_source(tmp_path / "a.parquet").listing()
    assert read_all(open_source(tmp_path / "a.parquet", image_column="mask")) == IMAGES[::-1]
    for wrong in ("label", "gone", "photo.bytes"):
        with pytest.raises(UserError, match=f"no column {wrong} of images, bytes or paths; it has photo"):
            open_source(tmp_path / "a.parquet", image_column=wrong).listing()


# ---------------------------------------------------------------- lists, globs and folders


def test_a_list_on_standard_input(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"a {n}.png").write_bytes(png(n))
    code = "import sys; from extraction_driver import run; r = run('-', sys.argv[1]); print(r.ok, r.failed)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path])}
    for n, text in enumerate((b"a 0.png\na 1.png\na 2.png\ngone.png\n", b"a 0.png\0a 1.png\0a 2.png\0gone.png\0")):
        command = [
            sys.executable,
            "-c",
            code.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])"),
            f"out{n}",
        ]
        done = subprocess.run(command, input=text, cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.stdout.decode().strip() == "3 {'missing': 1}", done.stderr.decode()
    assert [row["path"] for row in rows(tmp_path / "out1")] == ["a 0.png", "a 1.png", "a 2.png", "gone.png"]


def test_an_empty_standard_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(UserError, match="standard input names no file"):
        open_source("-").listing()
    with pytest.raises(UserError, match="no column label"):
        open_source("-", ["label"])


def test_backslashes_in_lists(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(png(0))
    (tmp_path / "odd\\name.png").write_bytes(png(1))
    (tmp_path / "list.txt").write_bytes(b"sub\\a.png\r\nodd\\name.png\r\ngone\\x.png\r\n")
    (tmp_path / "list.csv").write_bytes(b"path\r\nsub\\a.png\r\nodd\\name.png\r\ngone\\x.png\r\n")
    for name in ("list.txt", "list.csv"):
        assert names(open_source(tmp_path / name)) == [b"sub/a.png", b"odd\\name.png", b"gone\\x.png"]
        assert run(tmp_path / name, tmp_path / f"out-{name}").ok == 2


def test_folders_with_brackets_in_a_glob(tmp_path: Path) -> None:
    for name in ("photos [2024]", "x [1]", "x [2]", "a{b}"):
        (tmp_path / name / "sub [3]").mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(png(0))
        (tmp_path / name / "sub [3]" / "b.png").write_bytes(png(1))
    assert names(open_source(str(tmp_path / "photos [2024]" / "*.png"))) == [b"a.png"]
    assert names(open_source(str(tmp_path / "photos [2024]" / "**" / "*.png"))) == [b"a.png", b"sub [3]/b.png"]
    assert names(open_source(str(tmp_path / "a{b}" / "*.png"))) == [b"a.png"]
    assert names(open_source(str(tmp_path / "x*" / "sub [3]" / "*.png"))) == [
        b"x [1]/sub [3]/b.png",
        b"x [2]/sub [3]/b.png",
    ]
    assert names(open_source(str(tmp_path / "x [[]1]" / "*.png"))) == [b"x [1]/a.png"]
    assert names(open_source(str(tmp_path / "x [1]" / "sub [3]" / "[ab].png"))) == [b"b.png"]


def test_a_folder_beyond_path_max_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(0))
    here, name = os.open(tmp_path / "in", os.O_RDONLY), "d" * 250
    depth = 0
    try:
        for depth in range(1, 20):  # noqa: B007
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        with open(os.open("deep.png", os.O_CREAT | os.O_WRONLY, dir_fd=here), "wb") as file:
            file.write(png(1))
        result = run(tmp_path / "in", tmp_path / "out")
        assert (result.ok, result.failed) == (1, {"io-error": 1})
        assert run(tmp_path / "in", tmp_path / "in" / ".out").ok == 1
    finally:
        os.unlink("deep.png", dir_fd=here)
        for _ in range(depth):  # too deep for pytest to remove
            above = os.open("..", os.O_RDONLY, dir_fd=here)
            os.rmdir(name, dir_fd=above)
            os.close(here)
            here = above
        os.close(here)


# ---------------------------------------------------------------- the web


@contextmanager
def server(files: dict[str, bytes], query: str, *, ranges: str) -> Iterator[tuple[str, list[str]]]:
    """Files behind a signature. ranges: ``yes``, ``no``, or ``lies``: it says that it has ranges and sends all."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, found = self.path.partition("?")
            asked.append(self.path)
            data = files.get(path)
            if data is None or found != query:
                self.send_error(403)
                return
            part = self.headers.get("Range", "")
            if ranges == "yes" and part.startswith("bytes="):
                first, _, last = part.removeprefix("bytes=").partition("-")
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                data = data[int(first) : int(last) + 1]
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "none" if ranges == "no" else "bytes")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", asked
        httpd.shutdown()


SIGNED = "X-Amz-Credential=AK%2F2026%2Fs3&X-Amz-Signature=0f%2Bsecret"


@pytest.mark.parametrize("name", ["x.tar", "x.parquet", "list.csv", "list.txt", "0.png"])
def test_a_presigned_url_is_read_and_its_signature_stays_secret(tmp_path: Path, name: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads https with it")
    pq.write_table(pa.table({"image": IMAGES}), tmp_path / "x.parquet")
    files = {
        "/a/x.tar": tar(tmp_path / "x.tar", [(f"{n}.png", data) for n, data in enumerate(IMAGES)]).read_bytes(),
        "/a/x.parquet": (tmp_path / "x.parquet").read_bytes(),
        "/a/0.png": IMAGES[0],
    }
    with server(files, SIGNED, ranges="yes") as (url, _):
        lines = [f"{url}/a/0.png?{SIGNED}"]
        files |= {"/a/list.csv": "\n".join(["path", *lines]).encode(), "/a/list.txt": "\n".join(lines).encode()}
        result = run(f"{url}/a/{name}?{SIGNED}", tmp_path / "out")
        assert result.failed == {}
        assert result.ok == (4 if name in ("x.tar", "x.parquet") else 1)
        if not name.startswith("list"):
            assert all("secret" not in row["path"] for row in rows(tmp_path / "out"))
            assert b"secret" not in (tmp_path / "out" / "_manifest.json").read_bytes()
        with pytest.raises(UserError) as caught:
            run(f"{url}/a/gone-{name}?{SIGNED}", tmp_path / "none")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ranges", ["no", "lies"])
@pytest.mark.parametrize("name", ["x.tar", "x.parquet"])
def test_a_server_without_ranges_is_named_in_true_words(tmp_path: Path, name: str, ranges: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads https with it")
    large = IMAGES * 400
    pq.write_table(pa.table({"image": large}), tmp_path / "x.parquet", use_dictionary=False)
    tar(tmp_path / "x.tar", [(f"{n}.png", data) for n, data in enumerate(large)])
    files = {
        f"/{name}": (tmp_path / name).read_bytes() + bytes(12_000_000 if name == "x.tar" else 0),
        "/0.png": IMAGES[0],
    }
    with server(files, "", ranges=ranges) as (url, _):
        files["/list.txt"] = b"0.png\n"
        with pytest.raises(UserError, match=r"whole files only.*download it"):
            run(f"{url}/{name}", tmp_path / "out")
        assert run(f"{url}/list.txt", tmp_path / "list").ok == 1, "lists and single images are read front to back"
