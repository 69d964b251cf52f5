"""Collections as people have them: what used to be lost without a word, one test per kind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from extraction_driver import run
from pictures import encode, picture
from small_sources import names, png, read_all, rows, tar

from zoo.errors import UserError
from zoo.sources import open_source

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
        "a QOI image": b"qoif" + bytes(30),
        "a FITS image": b"SIMPLE  =                    T" + b" " * 50,
        "a DICOM image": bytes(128) + b"DICM" + bytes(30),
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
