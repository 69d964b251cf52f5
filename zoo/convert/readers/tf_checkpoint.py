"""Read TensorFlow's checkpoints ("tensor bundles"): an index and one or more data files.

Why not TensorFlow's own reader: tensorflow-cpu 2.21 is a wheel of 274 MB, and two kinds of files need it.

The index is a sorted string table as LevelDB writes it, uncompressed (as tensorflow ``tensor_bundle.cc`` requests):
blocks of (shared prefix, key, value) entries, and a footer that points to them. A value is a ``BundleEntryProto``:
dtype, shape, shard, offset, size. These numbers are checked as they are read. A bundle holds no code.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tarfile import TarFile as TarArchive
from tarfile import TarInfo
from typing import BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.numerics.crc32c import masked_crc32c
from zoo.sources.tar_members import members
from zoo.system.varint import read_varint

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57  # leveldb table/format.h
_BLOCK_TRAILER = 5  # compression type, crc32c
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # tensorflow types.proto, the numeric ones
_MAX_INDEX_BYTES = 4 << 20  # that of a ResNet-200 has 100 kB; its checksums are computed in Python
_MAX_KEY = 4096  # bytes
_MAX_EXPANSION, _FREE_EXPANSION = 1.5, 64 << 20  # the published archives expand by 8 %
_COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")  # gzip, bzip2, xz, zstd
_varint = partial(read_varint, where="its index")


class _Files(Protocol):
    """The files of a bundle: a folder, or a zip or tar archive that is read in place."""

    def names(self) -> list[str]: ...
    def size(self, name: str) -> int: ...
    def open(self, name: str) -> BinaryIO: ...


@dataclass(frozen=True)
class _Folder:
    root: Path

    def names(self) -> list[str]:
        return [p.name for p in self.root.iterdir() if p.is_file()]

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")


@dataclass(frozen=True)
class _Zip:
    archive: zipfile.ZipFile

    def names(self) -> list[str]:
        return self.archive.namelist()

    def size(self, name: str) -> int:
        return self.archive.getinfo(name).file_size

    def open(self, name: str) -> BinaryIO:
        return cast("BinaryIO", self.archive.open(name))


@dataclass(frozen=True)
class _Tar:
    archive: TarArchive
    members: Mapping[str, TarInfo]

    def names(self) -> list[str]:
        return list(self.members)

    def size(self, name: str) -> int:
        return self.members[name].size

    def open(self, name: str) -> BinaryIO:
        return cast("BinaryIO", self.archive.extractfile(self.members[name]))


@dataclass(frozen=True)
class _TensorEntry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


@dataclass(frozen=True)
class Bundle:
    """An open checkpoint, of which the index was read."""

    _files: _Files
    _index: str
    _entries: Mapping[str, _TensorEntry]

    @property
    def names(self) -> list[str]:
        """Names of all tensors, of strings and object graphs too."""
        return list(self._entries)

    def read(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, NDArray[np.float32]]:
        """Read the numeric tensors by name, as float32; strings and object graphs are left out.

        Args:
            wanted: whether to read the tensor of a name; a memory bank can be larger than the network.
        """
        # the data files, each read once from beginning to end
        tensors: dict[str, NDArray[np.float32]] = {}
        for shard, name in _shards(sorted(self._files.names()), self._index.removesuffix("index")).items():
            by_offset = sorted(
                (e.offset, k) for k, e in self._entries.items() if e.shard == shard and e.dtype in _DTYPES and wanted(k)
            )
            with self._files.open(name) as opened:
                position = 0
                for _, key in by_offset:
                    tensors[key], position = _tensor(opened, position, self._entries[key], self._files.size(name), key)
        return tensors


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a checkpoint.

    Args:
        path: a zip, a tar or a folder that holds one bundle, its ``.index`` file, or the common prefix of its files.

    Raises:
        UserError: there is no bundle, more than one, or a damaged one; also for what reading it finds inside.
    """
    with _opened(path) as (files, stem):
        yield Bundle(files, *_index(files, stem))


def read_bundle(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read all numeric tensors of a checkpoint; see ``open_bundle`` and ``Bundle.read``."""
    with open_bundle(path) as bundle:
        return bundle.read()


def tensor_names(path: Path) -> list[str]:
    """Return the names of all tensors of a checkpoint, from its index alone. Raises UserError as ``open_bundle``."""
    with open_bundle(path) as bundle:
        return bundle.names


def is_archive(path: Path) -> bool:
    """True for a tar file that holds a bundle; a compressed one is none. Raises UserError: it is a damaged tar."""
    return bool(_bundle_members(path))


def _bundle_members(path: Path) -> list[TarInfo]:
    """Return the members of a tar file that holds a bundle; none of any other file."""
    if not tarfile.is_tarfile(path):
        return []
    with path.open("rb") as file:
        if file.read(2) in _COMPRESSED:
            raise UserError(f"{path} is compressed: unpack it, and give the folder with the .index file")
        file.seek(0)
        listed = list(members(file, path.stat().st_size, path))
    return listed if any(member.name.endswith(".index") for member in listed) else []


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Files, str | None]]:
    """Open a zip, a tar, a folder or the stem of the bundle's files: one reader serves all four."""
    try:
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _require_sizes(archive, path.stat().st_size)
                yield _Zip(archive), None
        elif path.is_file() and (listed := _bundle_members(path)):
            with tarfile.open(path, mode="r:") as opened:
                if len(named := {member.name: member for member in listed}) < len(listed):
                    raise ValueError("two members of its archive have one name")
                yield _Tar(opened, named), None
        elif path.is_dir():
            yield _Folder(path), None
        else:
            yield _Folder(path.parent), path.name.removesuffix(".index")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (
        ValueError,
        IndexError,
        KeyError,
        OverflowError,
        zipfile.BadZipFile,
        tarfile.TarError,
        RuntimeError,
        EOFError,
    ) as error:
        raise UserError(f"{path.name} is not a TensorFlow checkpoint, or a damaged one: {error}") from None


def _require_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Weights do not compress well: an archive that expands much holds something else."""
    members = archive.infolist()
    if len({m.filename for m in members}) < len(members):
        raise ValueError("two members of its archive have one name")
    expanded = sum(m.file_size for m in members)
    if expanded > _MAX_EXPANSION * size + _FREE_EXPANSION:
        raise ValueError(f"its archive expands from {size} bytes to {expanded}")


def _index(files: _Files, stem: str | None) -> tuple[str, dict[str, _TensorEntry]]:
    """Return the name of the index file, and the place of each tensor."""
    found = [n for n in sorted(files.names()) if n.endswith(".index") and (stem is None or n == f"{stem}.index")]
    # a SavedModel in the same archive has a second bundle, variables/variables.index, with the same numbers
    found = [n for n in found if not n.endswith("variables/variables.index")] or found
    if len(found) != 1:
        raise ValueError(f"{len(found)} .index files, one is needed")
    if files.size(found[0]) > _MAX_INDEX_BYTES:
        raise ValueError("its index is larger than 4 MB")
    with files.open(found[0]) as opened:
        index = opened.read(_MAX_INDEX_BYTES)
    return found[0], {k: _entry(v) for k, v in _table(index) if k}


def _shards(names: list[str], prefix: str) -> dict[int, str]:
    pattern = re.compile(re.escape(prefix) + r"data-(\d{5})-of-(\d{5})$")
    found = {int(m[1]): m[0] for m in map(pattern.match, names) if m}
    if not found:
        raise ValueError(f"no {prefix}data-* beside the index")
    return found


def _tensor(
    file: BinaryIO, position: int, entry: _TensorEntry, limit: int, key: str
) -> tuple[NDArray[np.float32], int]:
    """Read one tensor and return the position after it; reading goes forward because a zip cannot seek back cheaply."""
    # Compare the index with itself before the file is trusted with a size.
    dtype = np.dtype(_DTYPES[entry.dtype])
    count = 1
    for n in entry.shape:
        count *= n
    if entry.size != count * dtype.itemsize or entry.offset + entry.size > limit or entry.offset < position:
        raise ValueError(f"{key} does not lie where the index says")
    # Read the bytes forward only: a zip member cannot seek back cheaply.
    file.seek(entry.offset)
    data = file.read(entry.size)
    if len(data) != entry.size:
        raise ValueError(f"{key} is cut short")
    array = np.frombuffer(data, dtype).reshape(entry.shape).astype(np.float32)
    return array, entry.offset + entry.size


# ---------------------------------------------------------------- the sorted string table


def _table(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and values of a LevelDB table, in order."""
    # The footer points to the block of handles.
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise ValueError("its index has no footer")
    footer = len(data) - _FOOTER
    _, position = _varint(data, footer)  # the handle of the meta index: offset, size
    _, position = _varint(data, position)
    offset, position = _varint(data, position)
    size, _ = _varint(data, position)
    # Each handle names a data block, which holds the entries. An entry takes three bytes or more, so that blocks which
    # are named twice show.
    left = len(data) // 3
    for _, handle in _block(data, offset, size):
        start, after = _varint(handle, 0)
        length, _ = _varint(handle, after)
        for key, value in _block(data, start, length):
            left -= 1
            if left < 0:
                raise ValueError("its index names its blocks more than once")
            yield key.decode(), value


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = offset + size
    # Check that the block lies in the file and is plain.
    if end + _BLOCK_TRAILER > len(data) or size < 4:
        raise ValueError("a block of its index lies outside the file")
    if data[end] != 0:
        raise ValueError("its index is compressed, which TensorFlow does not do")
    if int.from_bytes(data[end + 1 : end + _BLOCK_TRAILER], "little") != masked_crc32c(data[offset : end + 1]):
        raise ValueError("a block of its index is damaged")
    # Cut off the restart points, which only a search would need.
    restarts = int.from_bytes(data[end - 4 : end], "little")
    end -= 4 * (restarts + 1)
    key, position = b"", offset
    # Each key shares a prefix with the key before it.
    while position < end:
        shared, position = _varint(data, position)
        unshared, position = _varint(data, position)
        length, position = _varint(data, position)
        if shared > len(key) or position + unshared + length > end:
            raise ValueError("an entry of its index lies outside its block")
        if shared + unshared > _MAX_KEY:
            raise ValueError("a name in its index is too long")
        key = key[:shared] + data[position : position + unshared]
        position += unshared
        yield key, data[position : position + length]
        position += length


# ---------------------------------------------------------------- BundleEntryProto, tensor_bundle.proto


def _entry(message: bytes) -> _TensorEntry:
    values = {1: 0, 3: 0, 4: 0, 5: 0}  # dtype, shard_id, offset, size
    shape: tuple[int, ...] = ()
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):  # TensorShapeProto: repeated Dim = 2, whose size = 1
            dims = [dict(_fields(dim)).get(1, 0) for n, dim in _fields(value) if n == 2 and isinstance(dim, bytes)]
            shape = tuple(d for d in dims if isinstance(d, int))
        elif number == 7:
            raise ValueError("it holds a sliced variable")
        elif number in values and isinstance(value, int):
            values[number] = value
    return _TensorEntry(values[1], shape, values[3], values[4], values[5])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the numbers and values of a protocol buffer message's fields."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
        elif wire in (1, 2, 5):
            length, position = _varint(message, position) if wire == 2 else ({1: 8, 5: 4}[wire], position)
            if position + length > len(message):
                raise ValueError("a message in its index is cut short")
            yield number, message[position : position + length]
            position += length
        else:
            raise ValueError("a message in its index is malformed")
