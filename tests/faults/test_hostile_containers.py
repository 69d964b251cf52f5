"""Containers whose parts contradict each other: Parquet pages and footers, members of zip and tar archives."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults.test_hostile_files import conversions, refused, write
from hostile_files import npy, npz, zipped
from pictures import encode, picture

from zoo.errors import UserError
from zoo.sources import open_source
from zoo.system.atomic_files import sha256_file
from zoo.system.parquet import PageChecks, read_table
from zoo.transforms.unreadable import UnreadableImage

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory with /proc")


def varint(value: int, length: int) -> bytes:
    """A number of Thrift (zigzag), in so many bytes."""
    value <<= 1
    parts = [value >> 7 * at & 0x7F for at in range(length)]
    return bytes([part | 0x80 for part in parts[:-1]] + parts[-1:])


def shortest(value: int) -> bytes:
    return varint(value, max(1, -(-(value << 1).bit_length() // 7)))


def table(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    options = {"use_dictionary": False, "compression": "zstd", "write_statistics": False} | options
    pq.write_table(pa.table(columns), file, store_schema=False, **options)
    return file.getvalue()


def claiming(data: bytes, *changes: tuple[int, int]) -> bytes:
    """Replace numbers by others everywhere, in as many bytes: footer or headers then say something else."""
    for number, other in changes:
        old = shortest(number)
        assert data.count(old) >= 1, number
        assert len(shortest(other)) <= len(old)
        data = data.replace(old, varint(other, len(old)))
    return data


LARGE = 200_000_000
ONE = [encode(picture(8, 8), "JPEG")]


def footers_that_say_less() -> dict[str, bytes]:
    """Pages of 200 MB and more, in files of some kB whose footers say little."""
    zeros = np.zeros(LARGE // 8, np.int64)
    text = [b"\0" * LARGE]
    made = {}
    for name, column, options in (
        ("numbers", zeros, {"data_page_size": 1 << 30}),
        ("bytes", pa.array(text, pa.binary()), {"data_page_size": 1 << 30}),
        ("dictionary", pa.array(text, pa.binary()), {"use_dictionary": True, "dictionary_pagesize_limit": 1 << 30}),
        ("version_2", zeros, {"data_page_size": 1 << 30, "data_page_version": "2.0"}),
    ):
        data = table({"image": column, "status": column}, **options)
        metadata = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
        footer = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
        head, tail = data[:footer], data[footer:]
        changes = [(metadata.total_uncompressed_size, 5000)]
        changes += [(metadata.num_values, 100)] if metadata.num_values > 1 else []
        made[name] = head + claiming(tail, *changes)
    return made


def test_pages_that_contradict_the_footer(tmp_path: Path) -> None:
    commands: dict[str, tuple[list[Any], int]] = {}
    for name, data in footers_that_say_less().items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(data)
        commands[f"{name} images"] = ["zoo", "evaluate", "knn", "--data", path, "--out", tmp_path / "o"], len(data)
        if name in ("bytes", "dictionary"):
            source = open_source(path)
            (row,) = source.listing().files.to_pylist()
            with pytest.raises(UnreadableImage, match="claims more than the footer says"):
                source.read(row)
        folder = tmp_path / f"{name}-result"
        folder.mkdir()
        (folder / "embeddings-000000.parquet").write_bytes(data)
        shard = {"file": "embeddings-000000.parquet", "rows": 1, "sha256": sha256_file(path)}
        (folder / "_manifest.json").write_text(json.dumps({"shards": [shard], "plan": "p", "dim": 2, "model": "m"}))
        (folder / ".zoo").mkdir()
        (folder / ".zoo" / "plan.parquet").write_bytes(data)
        for command in ("verify", "index", "cat"):
            more = [tmp_path / "all.parquet"] if command == "cat" else []
            commands[f"{name} {command}"] = ["zoo", command, folder, *more], len(data)
    refused(tmp_path, commands)


@pytest.mark.parametrize("rows", [2**31 - 1, 2**40])
def test_a_footer_of_more_rows_than_fit(tmp_path: Path, rows: int) -> None:
    data = table({"image": pa.array(ONE * 70, pa.binary())})
    footer = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    wide = varint(rows, 6 if rows > 2**32 else 5)
    tail = data[footer:-8].replace(shortest(70), wide)
    made = data[:footer] + tail + struct.pack("<I", len(tail)) + b"PAR1"
    path = tmp_path / "rows.parquet"
    path.write_bytes(made)
    words = ["zoo", "evaluate", "knn", "--data", path, "--out", tmp_path / "o"]
    refused(tmp_path, {"evaluate": (words, len(made))})
    with pytest.raises(UserError, match="more than fit into it"):
        open_source(path).listing()


def test_ordinary_tables_pass(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "n": random.integers(0, 9, 5000),
        "t": [f"name {n}" for n in range(5000)],
        "e": [[1.0, 2.0]] * 5000,
        "b": [n % 2 == 0 for n in range(5000)],
        "m": [None if n % 3 else n for n in range(5000)],
        "s": [{"bytes": b"x" * (n % 50), "path": "p"} for n in range(5000)],
        "i": [random.bytes(3000) for _ in range(5000)],  # two of them stand in each header
    }
    for options in (
        {},
        {"use_dictionary": True},
        {"data_page_version": "2.0", "use_dictionary": True},
        {"compression": "none", "row_group_size": 700, "data_page_size": 100},
        {"compression": "snappy", "write_page_index": True, "write_statistics": True},
        {"compression": "gzip", "use_byte_stream_split": False, "column_encoding": {"t": "DELTA_BYTE_ARRAY"}},
    ):
        data = table(columns, **options)
        assert read_table(data).num_rows == 5000
        checks = PageChecks(io.BytesIO(data))
        for group in range(pq.read_metadata(io.BytesIO(data)).num_row_groups):
            checks.require_group(group, [*columns])


# ---------------------------------------------------------------- zip


def overlapping(data: bytes, members: int) -> bytes:
    """A zip file whose directory names the same bytes again and again, under other names."""
    end = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", data[end + 12 : end + 20])
    entry = data[start : start + size]
    length = 46 + sum(struct.unpack("<HHH", entry[28:34]))
    first = entry[:length]
    name = struct.unpack("<H", first[28:30])[0]
    directory = entry + b"".join(first[:46] + b"%0*d.npy" % (name - 4, n) + first[46 + name :] for n in range(members))
    count = entry.count(b"PK\x01\x02") + members
    head = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(directory), start, 0)
    return data[:start] + directory + head


def test_zip_files_with_members_that_overlap(tmp_path: Path) -> None:
    arrays = npz(images=npy((400, 60, 60, 3), bytes(400 * 60 * 60 * 3)), labels=npy((400,), bytes(3200), "<i8"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, zipfile.ZipFile(io.BytesIO(arrays)) as source:
        for member in source.namelist():
            archive.writestr(member, source.read(member))
    made = overlapping(packed.getvalue(), 5000)
    path = tmp_path / "many.npz"
    path.write_bytes(made)
    commands = {"npz": (["zoo", "evaluate", "knn", "--data", path, "--out", tmp_path / "o"], len(made))}
    files = write(tmp_path, {"many": overlapping(zipped(b"\x80\x02}.", {"0": bytes(1 << 20)}), 5000)}, ".pth")
    refused(tmp_path, {**commands, **conversions(tmp_path, files, ("torch", "simsiam", "auto"))})


# ---------------------------------------------------------------- tar


def tarred(members: list[tuple[str, bytes]], change: Callable[[tarfile.TarInfo], None] = lambda _: None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            change(member)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def images(label: bytes, extension: str = "cls") -> bytes:
    pairs = [((f"{n}.jpg", ONE[0]), (f"{n}.{extension}", label)) for n in range(4)]
    return tarred([member for pair in pairs for member in pair])


def pax(key: str, value: str) -> bytes:
    def change(member: tarfile.TarInfo) -> None:
        member.pax_headers = {key: value}

    return tarred([("0.jpg", ONE[0]), ("0.cls", b"1")], change)


def base_256() -> bytes:
    data = bytearray(tarred([("0.jpg", ONE[0])]))
    data[124:136] = b"\x80" + (2**60).to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    return bytes(data)


TARS: dict[str, bytes] = {
    "pax_size": pax("size", str(2**60)),
    "pax_size_negative": pax("size", "-5"),
    "pax_size_words": pax("size", "many"),
    "pax_sparse": pax("GNU.sparse.realsize", str(2**60)) ,
    "base_256": base_256(),
    "class_of_10_9": images(b"999999999"),
    "json_10_30": images(b'{"cls": 1' + b"0" * 30 + b"}", "json"),
    "json_10_5000": images(b'{"cls": 1' + b"0" * 5000 + b"}", "json"),
    "json_deep": images(b'{"cls":' + b"[" * 100_000, "json"),
    "json_list": images(b'{"cls": [1, 2]}', "json"),
    "json_object": images(b'{"label": {"a": 1}}', "json"),
    "json_nan": images(b'{"label": NaN}', "json"),
    "json_infinite": images(b'{"label": 1e999}', "json"),
    "json_true": images(b'{"label": true}', "json"),
    "json_negative": images(b'{"label": -3.5}', "json"),
    "not_text": images(b"\xff\xfe\x00"),
    "large": images(b"x" * (2 << 20)),
}  # fmt: skip


def test_tar_files_with_hostile_headers_and_labels(tmp_path: Path) -> None:
    commands = {}
    for name, path in write(tmp_path, TARS, ".tar").items():
        size = path.stat().st_size
        commands[name] = ["zoo", "evaluate", "knn", "--data", path, "--out", tmp_path / "o"], size
        commands[f"{name} train"] = ["zoo-train", "run", "simclr_r18_tin32", "--data", path, "--out", tmp_path / "r",
                                     "--device", "cpu"], size  # fmt: skip
    refused(tmp_path, commands)
