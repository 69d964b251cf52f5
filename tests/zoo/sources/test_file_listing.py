from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoo.errors import UserError
from zoo.sources.file_listing import Listing, list_images


def paths(listing: Listing) -> list[bytes]:
    return listing.files["path"].to_pylist()


def test_images_come_in_the_order_of_their_raw_paths(tmp_path: Path) -> None:
    names = ["b.jpg", "a/z.PNG", "a.jpg", "a/b/c.TiF", "B.webp", "Ä.gif", "a-b/x.jpeg", "z.bmp"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert paths(list_images(tmp_path)) == sorted(os.fsencode(name) for name in names)


def test_other_files_are_counted_and_links_to_folders_not_followed(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.txt", "c", "jpg"):
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "linked.jpg").symlink_to("a.jpg")
    listing = list_images(tmp_path)
    assert paths(listing) == [b"a.jpg", b"linked.jpg"]
    assert (listing.other_files, listing.links_to_folders) == (3, 1)


def test_size_and_time_are_those_of_the_file_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "c.jpg").symlink_to("nowhere")
    time = (tmp_path / "a.jpg").stat().st_mtime_ns
    rows = [tuple(row.values()) for row in list_images(tmp_path).files.to_pylist()]
    assert rows == [(b"a.jpg", 5, time), (b"b.jpg", 5, time), (b"c.jpg", -1, -1)]


def test_whatever_is_named_like_an_image_has_one_row(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "inside.png").touch()
    (tmp_path / "to_folder.jpg").symlink_to("folder.jpg")
    names = [b"fifo.jpg", b"folder.jpg", b"folder.jpg/inside.png", b"loop.jpg", b"to_folder.jpg"]
    assert paths(list_images(tmp_path)) == names


def test_names_are_kept_byte_for_byte(tmp_path: Path) -> None:
    names = [b"\xff\xfe.jpg", b"new\nline.jpg", b"x" * 251 + b".jpg", b" .jpg", "\N{SNOWMAN}.jpg".encode()]
    for name in names:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
            pass
    assert paths(list_images(tmp_path)) == sorted(names)


def test_a_folder_deeper_than_recursion_goes(tmp_path: Path) -> None:
    folders = [os.fsencode(tmp_path) + b"/d" * depth for depth in range(1, 1050)]
    for folder in folders:
        os.mkdir(folder)
    with open(folders[-1] + b"/deep.jpg", "wb"):
        pass
    found = paths(list_images(tmp_path))
    os.remove(folders[-1] + b"/deep.jpg")
    for folder in reversed(folders):  # too deep for pytest to remove
        os.rmdir(folder)
    assert found == [b"d/" * 1049 + b"deep.jpg"]


def test_the_output_folder_is_left_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "out/b.jpg", "c/out/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert paths(list_images(tmp_path, without=[tmp_path / "c" / ".." / "out"])) == [b"a.jpg", b"c/out/d.jpg"]
    assert len(paths(list_images(tmp_path, without=[tmp_path / "not there"]))) == 3


def test_a_folder_that_may_not_be_listed_has_one_row(without_privileges: Path) -> None:
    root = without_privileges
    (root / "a.jpg").touch()
    for name in ("closed", "closed.jpg"):
        (root / name).mkdir(mode=0)
    assert paths(list_images(root)) == [b"a.jpg", b"closed", b"closed.jpg"]
    root.chmod(0)
    with pytest.raises(UserError, match="cannot list"):
        list_images(root)


def test_nothing_to_list_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no image in .* \(1 other files\)"):
        list_images(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        list_images(tmp_path / "absent")
    with pytest.raises(UserError, match="is not a folder"):
        list_images(tmp_path / "notes.txt")
