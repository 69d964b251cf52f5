"""TensorFlow's bundles, written here field by field: every type and layout is read, every lie of an index is named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from zoo.convert.readers import tf_checkpoint
from zoo.convert.readers.tf_checkpoint import read_bundle
from zoo.errors import UserError
from zoo.numerics.crc32c import masked_crc32c

MAGIC = 0xDB4775248B80FB57
TYPES = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9, "<f2": 19}
STRING = 7


def varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def nested(field: int, message: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(message)) + message


def entry(dtype: int, shape: tuple[int, ...], shard: int, offset: int, size: int, more: bytes = b"") -> bytes:
    """A ``BundleEntryProto``; zeros are left out, as protocol buffers do, and the crc is any four bytes."""
    dims = b"".join(nested(2, number(1, n)) for n in shape)
    fields = [number(f, v) for f, v in ((3, shard), (4, offset), (5, size)) if v]
    return number(1, dtype) + nested(2, dims) + b"".join(fields) + varint(6 << 3 | 5) + b"crc3" + more


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Keys share the longest prefix with the key before; one restart point."""
    out, before = b"", b""
    for key, value in entries:
        shared = next((n for n, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), len(before))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + bytes(4) + (1).to_bytes(4, "little")


def table(blocks: list[bytes], *, compression: int = 0, magic: int = MAGIC) -> bytes:
    data, handles = b"", []
    for n, content in enumerate([*blocks, b""]):
        if n == len(blocks):
            content = block(handles)
        handle = varint(len(data)) + varint(len(content))
        handles.append((b"%d" % n, handle))
        whole = content + bytes([compression])
        data += whole + masked_crc32c(whole).to_bytes(4, "little")
    meta = varint(0) + varint(8)
    return data + (meta + handle).ljust(40, b"\0") + magic.to_bytes(8, "little")


def bundle(folder: Path, index: bytes, *shards: bytes, name: str = "model.ckpt") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.index").write_bytes(index)
    for n, data in enumerate(shards):
        (folder / f"{name}.data-{n:05}-of-{len(shards):05}").write_bytes(data)
    return folder


def one(**changes: int | bytes | tuple[int, ...]) -> bytes:
    """The index of one tensor ``w``, float32 [2, 3] at 4 of 28 bytes."""
    fields = {"dtype": 1, "shape": (2, 3), "shard": 0, "offset": 4, "size": 24, **changes}
    return table([block([(b"", b""), (b"w", entry(**fields))])])  # type: ignore[arg-type]


DATA = b"----" + np.arange(6, dtype="<f4").tobytes()


def test_every_type_shape_block_and_shard_is_read(tmp_path: Path) -> None:
    arrays = {
        "a/kernel": np.arange(300, dtype="<f4").reshape(3, 100),
        "a/kernel/m": np.float64(2.5).reshape(()).astype("<f8"),
        "a/z": np.array([-7, 2**30], "<i4"),
        "b/count": np.array([[-3, 5]], "<i8"),
        "b/half": np.array([0.5, -2], "<f2"),
    }
    shards, entries = [b"xx", b""], []
    for n, (key, array) in enumerate(arrays.items()):
        shard = n % 2
        place = (shard, len(shards[shard]), array.nbytes)
        entries.append((key.encode(), entry(TYPES[array.dtype.str], array.shape, *place)))
        shards[shard] += array.tobytes()
    text = (b"b/text", entry(STRING, (), 0, 0, 2))
    index = table([block([(b"", b"header"), *entries[:2]]), block([*entries[2:], text])])
    folder = bundle(tmp_path / "folder", index, *shards)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"checkpoint/{file.name}")
    for path in (folder, folder / "model.ckpt", folder / "model.ckpt.index", tmp_path / "a.zip"):
        found = read_bundle(path)
        assert list(found) == ["a/kernel", "a/z", "b/half", "a/kernel/m", "b/count"]  # shard after shard
        for key, array in arrays.items():
            assert found[key].dtype == np.float32
            np.testing.assert_array_equal(found[key], array.astype(np.float32))


def test_tensors_that_touch_the_end_and_each_other_are_read(tmp_path: Path) -> None:
    entries = [(b"e", entry(1, (0, 3), 0, 0, 0)), (b"v", entry(1, (1,), 0, 0, 4)), (b"w", entry(1, (6,), 0, 4, 24))]
    found = read_bundle(bundle(tmp_path / "m", table([block(entries)]), DATA))
    assert found["e"].shape == (0, 3)
    assert found["w"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (one(size=20), "w does not lie where the index says"),
        (one(size=28, shape=(7,)), "w does not lie where the index says"),  # past the end of the data
        (one(offset=5), "w does not lie where the index says"),
        (one(shape=(2, 3, 2)), "w does not lie where the index says"),
        (one(more=number(7, 1)), "sliced variable"),
        (one(more=varint(6 << 3 | 3)), "malformed"),
        (one(more=varint(9 << 3 | 2) + varint(50)), "a message in its index is cut short"),
        (one(more=varint(9 << 3 | 1) + bytes(7)), "a message in its index is cut short"),
        (one(more=varint(8 << 3) + b"\x80" * 11), "too long"),
        (one(offset=2**70), "too long"),
        (table([block([(b"v", entry(1, (2,), 0, 0, 8)), (b"w", entry(1, (6,), 0, 4, 24))])]), "w does not lie"),
        (table([block([])], compression=1), "its index is compressed"),
        (table([block([])], magic=MAGIC + 1), "no footer"),
        (one()[-47:], "no footer"),
        (table([b"\x01\x01\x00w" + bytes(4) + b"\1\0\0\0"]), "an entry of its index lies outside its block"),
        (table([b"\x00\x05\x00w" + bytes(4) + b"\1\0\0\0"]), "an entry of its index lies outside its block"),
        (table([b"\x00\x01\x01w" + bytes(4) + b"\1\0\0\0"]), "an entry of its index lies outside its block"),
    ],
)
def test_a_lie_of_the_index_is_named(tmp_path: Path, index: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"^m is not a TensorFlow checkpoint, or a damaged one: .*({message})"):
        read_bundle(bundle(tmp_path / "m", index, DATA))


def test_blocks_outside_of_the_file_are_named(tmp_path: Path) -> None:
    whole = one()
    for offset, size in ((0, len(whole) - 4), (0, 3), (len(whole), 8)):
        handle = varint(offset) + varint(size)
        index = whole[:-48] + (varint(0) + varint(8) + handle).ljust(40, b"\0") + whole[-8:]
        with pytest.raises(UserError, match="a block of its index lies outside the file"):
            read_bundle(bundle(tmp_path / "m", index, DATA))


def test_missing_and_double_files_are_counted(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "m", one(), DATA)
    (folder / "other.index").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 \.index files, one is needed"):
        read_bundle(folder)
    assert list(read_bundle(folder / "model.ckpt")) == ["w"]
    with pytest.raises(UserError, match=r"0 \.index files"):
        read_bundle(folder / "none")
    (folder / "other.index").unlink()
    (folder / "model.ckpt.data-00000-of-00001").rename(folder / "model.ckpt.data-0-of-1")
    with pytest.raises(UserError, match=r"no model\.ckpt\.data-\* beside the index"):
        read_bundle(folder)


def test_a_saved_model_beside_the_checkpoint_does_not_count(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for stem in ("model.ckpt", "saved/variables/variables"):
            archive.writestr(f"{stem}.index", one())
            archive.writestr(f"{stem}.data-00000-of-00001", DATA)
    assert read_bundle(tmp_path / "a.zip")["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("saved/variables/variables.index", one())
        archive.writestr("saved/variables/variables.data-00000-of-00001", DATA)
    assert list(read_bundle(tmp_path / "b.zip")) == ["w"]


def test_a_large_index_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle(tmp_path / "m", one(), DATA)
    assert tf_checkpoint._MAX_INDEX_BYTES == 4 * 2**20
    monkeypatch.setattr(tf_checkpoint, "_MAX_INDEX_BYTES", len(one()))
    assert list(read_bundle(folder)) == ["w"]
    monkeypatch.setattr(tf_checkpoint, "_MAX_INDEX_BYTES", len(one()) - 1)
    with pytest.raises(UserError, match="larger than 4 MB"):
        read_bundle(folder)
