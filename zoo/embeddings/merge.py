"""Merge the shards of an extraction into one file, which is read back and compared before anybody uses it."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zoo.embeddings import columns
from zoo.embeddings.columns import Arrays, Vectors
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.manifest import Manifest
from zoo.embeddings.parts import joined_manifest, result_folders
from zoo.embeddings.shards import is_shard_file
from zoo.embeddings.text_files import TEXT_KINDS, write_text
from zoo.embeddings.verify import Verified, verify
from zoo.errors import UserError
from zoo.inference.outputs import EMBEDDING
from zoo.system.atomic_files import atomic_write, make_folder, remove, sha256_file
from zoo.system.json_types import JSON
from zoo.system.parquet import read_table

KINDS = (".parquet", ".npy", ".safetensors", *TEXT_KINDS)
_MANIFEST = b"zoo.manifest"


@dataclass(frozen=True)
class Merged:
    """The result of ``merge``.

    Attributes:
        files: the files written, the table last.
        rows: number of images.
        dim: length of an embedding.
        dtype: of the vectors.
        others: shapes of the other outputs of an image, by name.
    """

    files: tuple[Path, ...]
    rows: int
    dim: int
    dtype: str
    others: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Whole:
    """Verified results that become one file: one, or those of all parts of a cut."""

    results: tuple[Verified, ...]
    manifest: Manifest

    @classmethod
    def verified(cls, out: Path) -> _Whole:
        results = tuple(verify(folder) for folder in result_folders(out))
        names = [result.folder.root.name for result in results]
        return cls(results, joined_manifest([result.manifest for result in results], names))

    @property
    def fingerprint(self) -> Fingerprint:
        return self.results[0].fingerprint

    @property
    def images(self) -> int:
        return int(self.manifest["images"])


class _Hash(Protocol):
    """A hash of hashlib."""

    def update(self, data: bytes, /) -> None: ...


def merge(out: Path, file: Path) -> Merged:
    """Verify the extraction ``out`` and write it as one ``file``, in the format of its extension.

    Where ``out`` holds the parts of ``zoo plan``, the file has the rows of all parts in their order.

    A ``.parquet`` file has all columns, and the manifest in its metadata. ``FILE.npy`` holds the embeddings [rows, D],
    NaN where there are none, and ``FILE.layer3.npy`` another output; a ``.safetensors`` file holds a tensor for each
    output. With both the remaining columns go to a ``.parquet`` file of the same name. A ``.csv`` has a column for
    each number (``embedding_0``, ...), and a ``.jsonl`` a list for each output. One shard is in memory at a time.

    Raises:
        UserError: ``out`` is not complete or was altered; the file exists or has another extension; the disk is full.
    """
    # Check the names before anything is read.
    if file.suffix not in KINDS:
        raise UserError(f"{file}: give a name that ends in {', '.join(KINDS)}")
    text = file.suffix in TEXT_KINDS
    table = file if text else file.with_suffix(".parquet")
    _require_new({file, table})
    # Only a verified result may be merged.
    whole = _Whole.verified(out)
    shapes = whole.fingerprint.shapes
    others = {name: shape for name, shape in shapes.items() if name != EMBEDDING}
    fingerprint = whole.fingerprint
    make_folder(file.parent)
    if text:
        _write_text(whole, file)
        return Merged((file,), whole.images, fingerprint.dim, fingerprint.dtype, others)
    beside = columns.file_names(file.stem, file.suffix[1:], list(shapes))
    holding = {file.with_name(name): outputs for name, outputs in beside.items()}
    _require_new({*holding, table})
    # Write the files, then read them back and compare.
    try:
        same = _same_table(whole, table, [] if holding else list(shapes))
        for path, outputs in holding.items():
            same = _same_arrays(whole, path, outputs) and same
        if not same or pq.read_metadata(table).num_rows != whole.images:
            raise UserError(f"{file} does not read back as it was written: the disk may be failing")
    except BaseException as error:
        for path in (*holding, table):
            remove(path)
        # Columns of other types with the right hashes, in a forged result, make Arrow and numpy raise these.
        if isinstance(error, pa.ArrowException | ValueError | LookupError | TypeError | AttributeError):
            raise UserError(f"{out}: a shard is no table of embeddings: run the extraction again") from error
        raise
    return Merged((*holding, table), whole.images, fingerprint.dim, fingerprint.dtype, others)


def _require_new(paths: set[Path]) -> None:
    for path in sorted(paths):
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} exists: choose another name, or remove it first")
        if is_shard_file(path.name):
            raise UserError(f"{path} would be taken for a shard: choose another name")


def _shards(whole: _Whole) -> Iterator[tuple[pa.Table, dict[str, Vectors]]]:
    """Yield for each shard its table without the columns of outputs, and the outputs."""
    shapes, format = whole.fingerprint.shapes, whole.fingerprint.format
    for folder, names in ((result.folder, names) for result in whole.results for names in result.parts):
        table = read_table(folder.root / names[0]).replace_schema_metadata(None).combine_chunks()
        vectors = {n: columns.array(table[n], shape) for n, shape in shapes.items() if n in table.schema.names}
        beside = columns.file_names(names[0].removesuffix(".parquet"), format, list(shapes))
        for name, outputs in beside.items():
            vectors |= columns.decode(name, (folder.root / name).read_bytes(), outputs)
        yield table.drop_columns([name for name in shapes if name in table.schema.names]), vectors


def _write_text(whole: _Whole, path: Path) -> None:
    """Write a text file, and read it back: its bytes must be those that were written."""
    digest = hashlib.sha256()
    try:
        atomic_write(path, lambda opened: write_text(path.suffix, _shards(whole), _Hashing(opened, digest)))
        if sha256_file(path) != digest.hexdigest():
            raise UserError(f"{path} does not read back as it was written: the disk may be failing")
    except BaseException:
        remove(path)
        raise


class _Hashing(io.RawIOBase):
    """A file to write to that hashes what goes through."""

    def __init__(self, file: BinaryIO, digest: _Hash) -> None:
        self._file, self._digest = file, digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._file.write(data)


def _same_table(whole: _Whole, path: Path, outputs: list[str]) -> bool:
    """Write the merged table with these outputs, read them back, and return whether they are the same."""
    digest = hashlib.sha256()
    atomic_write(path, lambda opened: _write_table(whole, opened, digest, outputs))
    found, shapes = hashlib.sha256(), whole.fingerprint.shapes
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups if outputs else 0):
            table = file.read_row_group(group, columns=outputs)
            _update(found, {name: columns.array(table[name], shapes[name]) for name in outputs})
    return found.digest() == digest.digest()


def _same_arrays(whole: _Whole, path: Path, outputs: list[str]) -> bool:
    """Write a file of arrays, read it back, and return whether it is the same."""
    digest = hashlib.sha256()
    atomic_write(path, lambda opened: _write_arrays(whole, path.suffix, opened, digest, outputs))
    return _digest_of_end(path, sum(_sizes(whole, outputs).values())) == digest.hexdigest()


def _update(digest: _Hash, vectors: Arrays) -> None:
    for values in vectors.values():
        digest.update(values.tobytes())


def _sizes(whole: _Whole, outputs: list[str]) -> dict[str, int]:
    """Return the bytes of each output."""
    shapes, item = whole.fingerprint.shapes, np.dtype(whole.fingerprint.dtype).itemsize
    return {name: whole.images * math.prod(shapes[name]) * item for name in outputs}


def _write_table(whole: _Whole, file: BinaryIO, digest: _Hash, outputs: list[str]) -> None:
    writer = None
    metadata = {_MANIFEST: json.dumps(whole.manifest)}
    # Write one row group per shard.
    for table, vectors in _shards(whole):
        status = table["status"].to_pylist()
        for name in outputs:
            table = table.append_column(*columns.column(name, vectors[name], status))
        _update(digest, {name: vectors[name] for name in outputs})
        # The first shard gives the schema, which opens the file.
        if writer is None:
            writer = pq.ParquetWriter(
                file,
                table.schema.with_metadata(metadata),
                compression={"path": "zstd", "sha256": "zstd"},
                use_dictionary=["status", "error"],
                write_page_checksum=True,
            )
        writer.write_table(table.replace_schema_metadata(metadata), row_group_size=len(table))
    assert writer is not None  # an extraction has an image
    writer.close()


def _write_arrays(whole: _Whole, suffix: str, file: BinaryIO, digest: _Hash, outputs: list[str]) -> None:
    dtype, rows, shapes = np.dtype(whole.fingerprint.dtype), whole.images, whole.fingerprint.shapes
    # The header comes first: it depends on the shapes alone.
    if suffix == ".npy":
        (output,) = outputs
        shape = (rows, *shapes[output])
        descr = np.lib.format.dtype_to_descr(dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    else:
        header: dict[str, JSON] = {"__metadata__": {"plan": whole.manifest["plan"]}}
        kind, end = {"float32": "F32", "float16": "F16"}[dtype.name], 0
        for name, size in _sizes(whole, outputs).items():
            header[name] = {"dtype": kind, "shape": [rows, *shapes[name]], "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
    for name in outputs:  # one after the other, so that one shard is in memory at a time
        for _, vectors in _shards(whole):
            data = vectors[name].tobytes()
            digest.update(data)
            file.write(data)


def _digest_of_end(path: Path, size: int) -> str:
    """Hash the last ``size`` bytes of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(path.stat().st_size - size)
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
