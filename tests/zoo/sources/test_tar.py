"""Webdataset shards: what is in them comes back, and what is wrong with them is one line."""

from __future__ import annotations

import io
import json
import os
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, picture

from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.sources.tar_members import expand
from zoo.sources.tar_samples import samples
from zoo.transforms.unreadable import UnreadableImage


def jpeg(seed: int) -> bytes:
    return encode(picture(20, 16, seed), "JPEG")


def write(path: Path, members: dict[str, bytes], *, format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards with two images each, labels 0, 1, 2 as .cls and once as .json."""
    for n in range(3):
        members = {f"{n}a.jpg": jpeg(2 * n), f"{n}a.cls": b"%d\n" % n, f"{n}b.json": json.dumps({"label": n}).encode()}
        write(tmp_path / f"shard-{n:06}.tar", members | {f"{n}b.jpg": jpeg(2 * n + 1)})
    return tmp_path


@pytest.mark.parametrize("source", ["shard-{000000..000002}.tar", ""])
def test_images_and_labels_come_back_in_order(shards: Path, source: str) -> None:
    dataset = open_dataset(str(shards / source))
    assert dataset.required_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.row_name(3) == "shard-000001.tar:1b.jpg"
    for row in (5, 0, 3):
        expected = np.array(open_dataset(write(shards / "one.tar", {"x.jpg": jpeg(row)})).image(0))
        np.testing.assert_array_equal(dataset.pixels(row), expected)
        (shards / "one.tar").unlink()
    assert len(open_dataset(shards / "shard-000001.tar")) == 2


def test_a_split_in_shards_and_names_as_labels(tmp_path: Path) -> None:
    write(tmp_path / "train-0.tar", {"a/1.jpg": jpeg(0), "a/1.cls": b"cat", "b/1.jpg": jpeg(1), "b/1.cls": b"ant"})
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.classes, dataset.required_labels.tolist()) == (["ant", "cat"], [1, 0])


def test_a_name_that_climbs_is_only_a_name_and_links_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../../up.jpg", "/etc/root.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg(0))
            tar.addfile(info, io.BytesIO(jpeg(0)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"{kind!r}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    dataset = open_dataset(path)
    assert [dataset.row_name(n) for n in range(len(dataset))] == ["s.tar:../../up.jpg", "s.tar:/etc/root.jpg"]
    assert dataset.pixels(0).shape == (16, 20, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.tar"]


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    def refused(source: str | Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            open_dataset(source)
        assert "\n" not in str(caught.value)

    refused(str(tmp_path / "s-{00..02}.tar"), "no tar file at .*s-00.tar")
    refused(str(tmp_path / "s-{05..02}.tar"), "is no range")
    refused(write(tmp_path / "none.tar", {"a.txt": b"x"}), "no image in")
    refused(write(tmp_path / "half.tar", {"a.jpg": jpeg(0), "b.jpg": jpeg(1), "a.cls": b"0"}), "1 rows have no label")
    refused(write(tmp_path / "two.tar", {"a.jpg": jpeg(0), "a.png": jpeg(1)}), "two images called 'a'")
    refused(write(tmp_path / "odd.tar", {"a.jpg": jpeg(0), "a.json": b'{"label": [1]}'}), "neither a number")
    refused(write(tmp_path / "bad.tar", {"a.jpg": jpeg(0), "a.json": b"{" * 9}), "not readable as a label")
    refused(write(tmp_path / "deep.tar", {"a.jpg": jpeg(0), "a.json": b"[" * 100_000}), "not readable as a label")
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    refused(tmp_path / "x.tar", "is no readable tar file")
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.add(tmp_path / "two.tar", "two.jpg")
    refused(tmp_path / "z.tar", "is compressed")
    os.mkfifo(tmp_path / "fifo-0.tar")
    refused(str(tmp_path / "fifo-{0..0}.tar"), "is not a file")


def test_a_shard_that_changed_gives_no_wrong_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tar", {"a.jpg": jpeg(0)})
    dataset = open_dataset(path)
    write(path, {"a.txt": b"x" * 700, "b.jpg": jpeg(1)})
    with pytest.raises(UnreadableImage, match="changed"):
        dataset.pixels(0)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        dataset.image(0)


_WHOLE: list[bytes] = []


@given(st.integers(0, 4095), st.integers(0, 255), st.one_of(st.none(), st.integers(0, 10_000)))
@settings(max_examples=150, deadline=None)
def test_a_mutated_shard_gives_images_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, cut: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.tar"
    if not _WHOLE:
        members = {"a.jpg": jpeg(0), "a.cls": b"1", "n" * 120 + ".jpg": jpeg(1), "n" * 120 + ".cls": b"2"}
        _WHOLE.append(write(path, members, format=tarfile.GNU_FORMAT).read_bytes())
    data = bytearray(_WHOLE[0])
    data[place] = value
    path.write_bytes(data[:cut])
    with suppress(UserError):
        for sample in samples([path]):
            assert len(sample.read()) == sample.size


def test_a_header_that_asks_for_gigabytes_is_refused(tmp_path: Path) -> None:
    """A pax header or a long name is read whole by tarfile."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    path = tmp_path / "s.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 34)  # sparse
    with pytest.raises(UserError, match="header larger than 16 MB"):
        samples([path])


@pytest.mark.parametrize("size", [-512, -1024, -(1 << 40)])
def test_a_member_of_negative_size_does_not_go_round_for_ever(tmp_path: Path, size: int) -> None:
    header = bytearray(tarfile.TarInfo("x.jpg").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" + size.to_bytes(11, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "s.tar").write_bytes(bytes(header) + bytes(4096))
    with pytest.raises(UserError, match="is no readable tar file"):
        samples([tmp_path / "s.tar"])


def test_braces() -> None:
    assert [str(p) for p in expand("a-{08..11}.tar")] == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert len(expand("{0..1}/s-{000..004}.tar")) == 10
