"""A glob below which links lead in circles ends, and gives each image once; any other is Python's."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest
from pictures import encode, picture
from small_sources import names

from zoo.sources import open_source
from zoo.sources.glob_files import matches


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/1.png", "a/b/2.png", "a/b/c/3.png", "d/[4].png", "d/.hidden/5.png", ".e/6.png", "a/.7.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(), "PNG"))
    os.symlink(tmp_path / "a" / "b", tmp_path / "linked")
    os.symlink("nowhere", tmp_path / "d" / "broken.png")
    (tmp_path / "d" / os.fsdecode(b"\xff.png")).touch()
    return tmp_path


PATTERNS = [
    "**/*.png", "**", "*/**/*.png", "a/**", "**/b/**/*.png", "**/b", "**/.hidden/*.png", "**/.*", "**/[[]4].png",
    "a/**/3.png", "**/**/*.png", "nothing/**", "**/", "d/**/*.p?g", "linked/**/*.png", "**/1.png/**", "*/*.png", "a/*",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("absolute", [False, True])
def test_without_circles_it_is_pythons_glob(tree: Path, pattern: str, absolute: bool) -> None:
    text, root = os.fsencode(tree / "x")[:-1] * absolute + pattern.encode(), os.fsencode(tree)
    expected = {path for path in glob.iglob(text, root_dir=root, recursive=True) if path[-1:] not in (b"", b"/")}
    found = list(matches(text, root))
    assert set(found) == expected
    assert len(found) == len(set(found)) or "**" not in pattern


def test_links_in_circles_are_not_followed_round(tree: Path) -> None:
    expected = sorted(names(open_source(str(tree / "**" / "*.png"))))
    for place, target in (("a/up", ".."), ("d/up", ".."), ("a/b/c/self", "."), ("a/b/a", "../../a"), ("d/x", "../d")):
        os.symlink(target, tree / place)
    found = names(open_source(str(tree / "**" / "*.png")))
    assert len(found) == len(set(found))
    assert set(found) >= set(expected)
    images = [b"/1.png", b"/2.png", b"/3.png", b"/[4].png", b"/\xff.png", b"/broken.png"]
    assert all(name.endswith(tuple(images)) for name in found)
    assert len(found) < 100


def test_folders_deeper_than_recursion_goes(tmp_path: Path) -> None:
    folders = [os.fsencode(tmp_path) + b"/d" * depth for depth in range(1, 1050)]
    for folder in folders:
        os.mkdir(folder)
    with open(folders[-1] + b"/1.png", "wb"):
        pass
    found = names(open_source(str(tmp_path / "**" / "*.png")))
    os.remove(folders[-1] + b"/1.png")
    for folder in reversed(folders):  # too deep for pytest to remove
        os.rmdir(folder)
    assert found == [b"d/" * 1049 + b"1.png"]
