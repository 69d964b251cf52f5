"""No member of a tar file is lost without a word: damaged headers, joined archives, hard links."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from extraction_driver import run
from small_sources import names, png, read_all, tar

from zoo.cli.messages import print_extraction
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.sources import open_source

MEMBERS = [(f"{n}.png", png(n)) for n in range(4)]


def _refused(path: Path, match: str) -> None:
    for read in (lambda: open_source(path).listing(), lambda: open_dataset(path)):
        with pytest.raises(UserError, match=match) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_damaged_header_is_not_the_end(tmp_path: Path, format: int) -> None:
    whole = tar(tmp_path / "a.tar", [*MEMBERS, (f"{'d' * 60}/{'e' * 60}.png", png(4))], format).read_bytes()
    path = tmp_path / "b.tar"
    for name in (b"1.png", b"3.png"):
        at = whole.index(name + b"\0")
        for place in (0, 101, 124, 148, 156):  # name, mode, size, checksum, type
            path.write_bytes(whole[: at + place] + bytes([whole[at + place] ^ 1]) + whole[at + place + 1 :])
            _refused(path, "no readable tar file")
        path.write_bytes(whole[: at + 100])
        _refused(path, "no readable tar file")


def test_a_file_without_blocks_at_its_end_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tar(tmp_path / "a.tar", MEMBERS)
    with tarfile.open(path) as file:
        last = file.getmembers()[-1]
    whole = path.read_bytes()
    for behind in (b"", bytes(512), bytes(1 << 21), bytes(1024) + b"\nbytes that are no archive" * 60):
        path.write_bytes(whole[: last.offset_data + -(-last.size // 512) * 512] + behind)
        assert len(names(open_source(path))) == len(MEMBERS)
        assert open_source(path).listing().unended == (() if behind else (str(path),))
        assert len(open_dataset(path)) == len(MEMBERS)
        assert ("ends without a block of zeros" in capsys.readouterr().err) == (not behind)
    assert open_source(tar(tmp_path / "whole.tar", MEMBERS)).listing().unended == ()


def test_a_tar_that_was_cut_off_behind_a_member_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tars"
    folder.mkdir()
    for number, name in enumerate(("a.tar", "b.tar")):
        path = tar(folder / name, [(f"{n}.png", png(10 * number + n)) for n in range(4)])
        with tarfile.open(path) as file:
            third = file.getmembers()[2]
        path.write_bytes(path.read_bytes()[: third.offset])
    done = run(folder, tmp_path / "out")
    assert (done.ok, done.unended) == (4, (str(folder / "a.tar"), str(folder / "b.tar")))
    print_extraction(done, tmp_path / "out")
    assert f"WARNING: {folder / 'a.tar'} and 1 more end without a block of zeros" in capsys.readouterr().err


@pytest.mark.parametrize("between", [None, 0, 512, 1024])
def test_archives_that_were_joined_are_refused(tmp_path: Path, between: int | None) -> None:
    first, second = (tar(tmp_path / f"{n}.tar", MEMBERS[n : n + 2]) for n in (0, 2))
    path, data = tmp_path / "joined.tar", first.read_bytes()
    with tarfile.open(first) as file:
        last = file.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    path.write_bytes((data if between is None else data[:end] + bytes(between)) + second.read_bytes())
    if between == 0:  # no end between them: one archive
        assert len(names(open_source(path))) == 4
    else:
        _refused(path, "another tar file follows")


def test_a_hard_link_has_the_bytes_of_the_member_that_it_names(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [("a.png", png(0)), ("a.cls", b"cat"), ("b.png", png(1)), ("b.cls", b"ant")])
    with tarfile.open(path, "a") as file:
        for name, target in (("c.png", "b.png"), ("c.cls", "a.cls"), ("d.png", "/etc/passwd"), ("e.png", "e.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            file.addfile(info)
    source = open_source(path, ["cls"])
    assert names(source) == [b"a.tar/a.png", b"a.tar/b.png", b"a.tar/c.png"]
    assert read_all(source) == [png(0), png(1), png(1)]
    assert source.listing().files["cls"].to_pylist() == ["cat", "ant", "cat"]
    dataset = open_dataset(path)
    assert [dataset.classes[label] for label in dataset.required_labels] == ["cat", "ant", "cat"]


def test_links_and_devices_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tar(tmp_path / "a.tar", [*MEMBERS, ("notes.txt", b"text")])
    with tarfile.open(path, "a") as file:
        for name, kind, target in (
            ("folder.png", tarfile.DIRTYPE, ""),
            ("same.png", tarfile.LNKTYPE, "0.png"),
            ("nothing.png", tarfile.LNKTYPE, "later.png"),
            ("symbolic.png", tarfile.SYMTYPE, "0.png"),
            ("outside.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("device.png", tarfile.CHRTYPE, ""),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            file.addfile(member)
    done = run(path, tmp_path / "out")
    print_extraction(done, tmp_path / "out")
    assert (done.ok, done.left_out) == (5, {".txt": 1, "linked": 3, "special": 2})
    assert "left out: 6 files that are not read in place (3 linked, 2 special, 1 .txt)" in capsys.readouterr().out
    assert len(open_dataset(path)) == 5
    assert "members that are not read in place are left out (3 linked, 2 special)" in capsys.readouterr().err


def test_a_tar_without_images_says_what_it_holds(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [("in.tar", b"x"), ("in.zip", b"PK")])
    with pytest.raises(UserError, match=r"no image in a\.tar \(2 other files\): 1 \.tar, 1 \.zip"):
        open_source(path).listing()
