"""The shards of an extraction as one file, read back and compared before anybody uses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.files import atomic_write, remove
from zoo.shards import decode_vectors, embedding_column, is_shard_file, matrix
from zoo.verify import Verified, verify

KINDS = (".parquet", ".npy", ".safetensors")
_MANIFEST = b"zoo.manifest"


@dataclass(frozen=True)
class Merged:
    """What ``merge`` wrote: ``files``, the table last, with ``rows`` rows of ``dim`` numbers of ``dtype`` each."""

    files: tuple[Path, ...]
    rows: int
    dim: int
    dtype: str


def merge(out: Path, file: Path) -> Merged:
    """Verify the extraction ``out`` and write it as one ``file``: the kind is that of its name.

    A ``.parquet`` has all columns, and the manifest in its metadata. ``.npy`` and ``.safetensors`` (tensor
    ``embedding``) hold the matrix [rows, D], NaN where there is no vector, and the other columns stand in a
    ``.parquet`` of the same name beside. Memory holds one shard at a time.

    Raises:
        UserError: ``out`` is not complete or altered; the file exists or is of no such kind; a full disk.
    """
    if file.suffix not in KINDS:
        raise UserError(f"{file}: give a name that ends in {', '.join(KINDS)}")
    table = file.with_suffix(".parquet")
    for path in {file, table}:
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} exists: choose another name, or remove it first")
        if is_shard_file(path.name):
            raise UserError(f"{path} would be taken for a shard: choose another name")
    whole = verify(out)
    digest = hashlib.sha256()
    atomic_write(table, lambda opened: _write_table(whole, opened, digest, with_vectors=table == file))
    try:
        if table == file:
            found = _digest_of_table(file)
        else:
            digest = hashlib.sha256()
            atomic_write(file, lambda opened: _write_matrix(whole, file.suffix, opened, digest))
            found = _digest_of_matrix(whole, file)
        if found != digest.hexdigest() or pq.read_metadata(table).num_rows != whole.manifest["images"]:
            raise UserError(f"{file} does not read back as it was written: the disk may be failing")
    except BaseException:
        for path in {file, table}:
            remove(path)
        raise
    files = (file,) if table == file else (file, table)
    return Merged(files, whole.manifest["images"], whole.manifest["dim"], whole.manifest["dtype"])


def _shards(whole: Verified) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
    for names in whole.parts:
        with pq.ParquetFile(whole.folder.root / names[0]) as file:
            table = file.read().replace_schema_metadata(None).combine_chunks()
        if names[1:]:
            yield table, decode_vectors(names[1], (whole.folder.root / names[1]).read_bytes())
        else:
            yield table, matrix(table["embedding"])


def _write_table(whole: Verified, file: BinaryIO, digest: Any, *, with_vectors: bool) -> None:
    writer = None
    metadata = {_MANIFEST: json.dumps(whole.manifest)}
    for table, vectors in _shards(whole):
        if not with_vectors and "embedding" in table.schema.names:
            table = table.drop_columns(["embedding"])
        elif with_vectors and "embedding" not in table.schema.names:
            table = table.append_column(*embedding_column(vectors, table["status"].to_pylist()))
        digest.update(vectors.tobytes())
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


def _write_matrix(whole: Verified, suffix: str, file: BinaryIO, digest: Any) -> None:
    dtype, shape = np.dtype(whole.manifest["dtype"]), (whole.manifest["images"], whole.manifest["dim"])
    if suffix == ".npy":
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
    else:
        size = int(np.prod(shape)) * dtype.itemsize
        name = {"float32": "F32", "float16": "F16"}[dtype.name]
        entry = {"dtype": name, "shape": shape, "data_offsets": [0, size]}
        text = json.dumps({"__metadata__": {"plan": whole.manifest["plan"]}, "embedding": entry}).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
    for _, vectors in _shards(whole):
        data = vectors.tobytes()
        digest.update(data)
        file.write(data)


def _digest_of_table(path: Path) -> str:
    digest = hashlib.sha256()
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            digest.update(matrix(file.read_row_group(group, columns=["embedding"])["embedding"]).tobytes())
    return digest.hexdigest()


def _digest_of_matrix(whole: Verified, path: Path) -> str:
    """Of the last bytes of a file, as many as the matrix has, read in blocks."""
    item = np.dtype(whole.manifest["dtype"]).itemsize
    size = whole.manifest["images"] * whole.manifest["dim"] * item
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(path.stat().st_size - size)
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
