"""The result of an extraction, cut into shards of a fixed number of rows.

A shard is ``embeddings-00000.parquet``; with format npy or safetensors it is that table without its last column, and
the vectors beside it in ``embeddings-00000.npy`` or ``.safetensors`` (tensor ``embedding``). The table's rename commits
the shard: the vectors are written before, and the table holds their hash. The bytes depend on the plan and the
photographs alone.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from numpy.typing import NDArray

from zoo import files
from zoo.plan import Plan
from zoo.sources.source import IN_CONTAINER

OK = "ok"
STATE = ".zoo"
FORMATS = ("parquet", "npy", "safetensors")
DTYPES = ("float32", "float16")

_SHARD_FILE = re.compile(r"embeddings-\d{5,}\.(parquet|npy|safetensors)")
_COLUMNS = pa.schema(
    [
        ("path", pa.string()),
        ("path_bytes", pa.binary()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
RESERVED = frozenset((*_COLUMNS.names, "embedding", *IN_CONTAINER.names))
"""Names of columns that a source's column cannot be kept under."""
PLAN, SHARD, VECTORS = b"zoo.plan", b"zoo.shard", b"zoo.vectors_sha256"
_FACTS = ("sha256", "width", "height", "status", "error")


class DamagedShard(Exception):
    """A shard file that is not what a run of this plan wrote; the text says why."""


@dataclass
class Rows:
    """The rows of one shard while they are filled in, each in a slot of its own.

    Attributes:
        paths: raw bytes.
        vectors: float32 or float16 [rows, D], NaN where there is none.
        sha256, width, height, status, error: the columns of the table, ``None`` where not known.
    """

    paths: list[bytes]
    vectors: NDArray[Any]
    sha256: list[str | None]
    width: list[int | None]
    height: list[int | None]
    status: list[str | None]
    error: list[str | None]

    @classmethod
    def empty(cls, plan: Plan, shard: int) -> Rows:
        """One empty slot per row of the plan's shard."""
        planned = plan.rows(shard)
        n = len(planned)
        paths = plan.files["path"].slice(planned.start, n).to_pylist()
        vectors = np.full((n, plan.identity["dim"]), np.nan, plan.identity.get("dtype", "float32"))
        return cls(paths, vectors, [None] * n, [None] * n, [None] * n, [None] * n, [None] * n)

    def take(self, slot: int, other: Rows, index: int) -> None:
        """Fill a slot with the row of another shard, all but its path."""
        self.vectors[slot] = other.vectors[index]
        for name in _FACTS:
            getattr(self, name)[slot] = getattr(other, name)[index]


class Folder:
    """A folder of shards made by one plan, with the state of the run in ``.zoo``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / STATE
        self.scratch = self.state / "tmp"
        self.plan = self.state / "plan.parquet"
        self.manifest = root / "manifest.json"

    def create(self) -> None:
        """Make the folders. UserError where that is refused."""
        files.make_folder(self.scratch)

    def shard_files(self) -> set[str]:
        """Names of the shard files present, of whatever plan."""
        if not self.root.is_dir():
            return set()
        return {path.name for path in self.root.iterdir() if _SHARD_FILE.fullmatch(path.name)}

    def commit(self, name: str, data: bytes) -> None:
        """Put a result file in place. Another run of the same plan may do so at the same time: same bytes."""
        try:
            files.atomic_write_bytes(self.root / name, data, scratch=self.scratch)
        except FileNotFoundError:
            # A run that had finished before this one has swept the temporary files, so all results stand.
            if not (self.root / name).exists():
                raise

    def write(self, plan: Plan, shard: int, rows: Rows) -> None:
        """Commit a shard."""
        table_name, *vectors_name = names(plan, shard)
        metadata = {PLAN: plan.key, SHARD: str(shard)}
        for name in vectors_name:
            data = encode_vectors(name, rows.vectors)
            self.commit(name, data)
            metadata[VECTORS] = hashlib.sha256(data).hexdigest()
        planned = plan.rows(shard)
        kept = plan.kept.slice(planned.start, len(planned))
        table = _table(rows, kept, with_vectors=not vectors_name).replace_schema_metadata(metadata)
        self.commit(table_name, _encode(table))

    def read(self, plan: Plan, shard: int) -> Rows | None:
        """A committed shard, every byte of it checked; None if it is not there. Raises DamagedShard."""
        table_name, *vectors_name = names(plan, shard)
        try:
            data = (self.root / table_name).read_bytes()
            table = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read().combine_chunks()
        except FileNotFoundError:
            return None
        except Exception as error:  # what Arrow raises for damaged bytes is not a closed set
            raise DamagedShard("cannot be read") from error
        metadata = table.schema.metadata or {}
        if (metadata.get(PLAN), metadata.get(SHARD)) != (plan.key.encode(), b"%d" % shard):
            raise DamagedShard("belongs to another run")
        # The pages have checksums, the rest of the file has none; but a table has only this one encoding.
        if _encode(table) != data:
            raise DamagedShard("was altered")
        if vectors_name:
            vectors = self._read_vectors(vectors_name[0], metadata[VECTORS].decode())
        else:
            vectors = matrix(table["embedding"])
        planned = plan.rows(shard)
        paths = plan.files["path"].slice(planned.start, len(planned)).to_pylist()
        return Rows(paths, vectors, *(table[name].to_pylist() for name in _FACTS))

    def _read_vectors(self, name: str, sha256: str) -> NDArray[Any]:
        try:
            data = (self.root / name).read_bytes()
        except FileNotFoundError:
            raise DamagedShard(f"misses {name}") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedShard(f"does not go with {name}")
        return decode_vectors(name, data)


def names(plan: Plan, shard: int) -> list[str]:
    """The file names of a shard: its table, and with format npy its vectors."""
    table = f"embeddings-{shard:05d}.parquet"
    format = plan.identity["format"]
    return [table] if format == "parquet" else [table, f"embeddings-{shard:05d}.{format}"]


def is_shard_file(name: object) -> bool:
    """Whether this is a name that a part of a shard can have."""
    return isinstance(name, str) and _SHARD_FILE.fullmatch(name) is not None


def encode_vectors(name: str, vectors: NDArray[Any]) -> bytes:
    """[rows, D] as the bytes of a file of that name."""
    if name.endswith(".safetensors"):
        return safetensors.numpy.save({"embedding": vectors})
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    return buffer.getvalue()


def decode_vectors(name: str, data: bytes) -> NDArray[Any]:
    """What ``encode_vectors`` made; the bytes must be known to be that."""
    if name.endswith(".safetensors"):
        return safetensors.numpy.load(data)["embedding"]
    vectors: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return vectors


def _table(rows: Rows, kept: pa.Table, *, with_vectors: bool) -> pa.Table:
    shown = [path.decode(errors="backslashreplace") for path in rows.paths]
    raw = [None if text.encode() == path else path for text, path in zip(shown, rows.paths, strict=True)]
    facts = (getattr(rows, name) for name in _FACTS)
    table = pa.table([shown, raw, *facts], schema=_COLUMNS)
    for field in kept.schema:
        table = table.append_column(field.name, kept[field.name].combine_chunks())
    if not with_vectors:
        return table
    return table.append_column(*embedding_column(rows.vectors, rows.status))


def embedding_column(vectors: NDArray[Any], status: Sequence[str | None]) -> tuple[pa.Field, pa.Array]:
    """[rows, D] as a column of fixed-size lists, null where the status is not ok."""
    # Not "item", Arrow's name for the field: Parquet has "element", and the type must survive a round trip.
    embedding = pa.list_(pa.field("element", pa.from_numpy_dtype(vectors.dtype)), vectors.shape[1])
    missing = pa.array([state != OK for state in status])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=embedding, mask=missing)
    return pa.field("embedding", embedding), column


def matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    """The column ``embedding`` of one shard as [rows, D], NaN where there is no vector."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    values: NDArray[Any] = np.array(array.values.to_numpy(zero_copy_only=False))
    values[np.isnan(values)] = np.nan  # one NaN: for a missing float16 Arrow gives another than NumPy
    return values.reshape(len(array), array.type.list_size)


def _encode(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=len(table),
        compression={"path": "zstd", "sha256": "zstd"},  # vectors do not compress
        use_dictionary=["status", "error"],
        write_statistics=["path"],
        write_page_checksum=True,
    )
    return buffer.getvalue()
