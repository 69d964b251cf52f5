"""The result of an extraction, cut into shards of a fixed number of rows.

A shard is ``embeddings-00000.parquet``; with format npy or safetensors it is that table without the columns of its
outputs, which stand beside it (``zoo.embeddings.columns.file_names``). The table's rename commits the shard: those
files are
written before, and the table holds their hashes. The bytes depend on the plan and the photographs alone.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.embeddings import columns
from zoo.embeddings.columns import OK
from zoo.embeddings.plan import Plan
from zoo.inference.outputs import EMBEDDING
from zoo.sources.base import IN_CONTAINER
from zoo.system import atomic_files
from zoo.system.parquet import read_table

DUPLICATE = "duplicate"
STATE = ".zoo"
FORMATS = ("parquet", "npy", "safetensors")
DTYPES = ("float32", "float16")

_SHARD_FILE = re.compile(r"embeddings-\d{5,}\.(parquet|([a-z0-9_]+\.)?npy|safetensors)")
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
RESERVED = frozenset((*_COLUMNS.names, EMBEDDING, *IN_CONTAINER.names))
"""Names of columns that a source's column cannot be kept under."""
PLAN, SHARD, _VECTORS = b"zoo.plan", b"zoo.shard", "zoo.vectors_sha256"
_FACTS = ("sha256", "width", "height", "status", "error")


class DamagedShard(Exception):
    """A shard file that is not what a run of this plan wrote; the text says why."""


@dataclass
class Rows:
    """The rows of one shard while they are filled in, each in a slot of its own.

    Attributes:
        paths: raw bytes.
        vectors: float32 or float16 [rows, ...] by output, NaN where there is none; always an ``embedding``.
        sha256, width, height, status, error: the columns of the table, ``None`` where not known.
    """

    paths: list[bytes]
    vectors: dict[str, NDArray[Any]]
    sha256: list[str | None]
    width: list[int | None]
    height: list[int | None]
    status: list[str | None]
    error: list[str | None]

    @classmethod
    def empty(cls, plan: Plan, shard: int) -> Rows:
        """One empty slot per row of the plan's shard; those of copies are filled in."""
        planned = plan.rows(shard)
        n = len(planned)
        paths = plan.files["path"].slice(planned.start, n).to_pylist()
        dtype = plan.identity.get("dtype", "float32")
        vectors = {name: np.full((n, *shape), np.nan, dtype) for name, shape in plan.shapes.items()}
        rows = cls(paths, vectors, [None] * n, [None] * n, [None] * n, [None] * n, [None] * n)
        for copy in plan.copies_in(shard):
            slot = copy.row - planned.start
            rows.status[slot], rows.sha256[slot] = DUPLICATE, copy.sha256
            rows.width[slot], rows.height[slot] = copy.width, copy.height
            rows.error[slot] = f"the same bytes as {copy.first.decode(errors='backslashreplace')}"
        return rows

    @property
    def failed(self) -> int:
        """How many rows have no vector of their own and are no copies."""
        return sum(status not in (OK, DUPLICATE) for status in self.status)

    def take(self, slot: int, other: Rows, index: int) -> None:
        """Fill a slot with the row of another shard, all but its path."""
        for name, values in self.vectors.items():
            values[slot] = other.vectors[name][index]
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
        atomic_files.make_folder(self.scratch)

    def shard_files(self) -> set[str]:
        """Names of the shard files present, of whatever plan."""
        if not self.root.is_dir():
            return set()
        return {path.name for path in self.root.iterdir() if _SHARD_FILE.fullmatch(path.name)}

    def commit(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Put a result file in place. Another run of the same plan may do so at the same time: same bytes."""
        try:
            atomic_files.atomic_write(self.root / name, write, scratch=self.scratch)
        except FileNotFoundError:
            # A run that had finished before this one has swept the temporary files, so all results stand.
            if not (self.root / name).exists():
                raise

    def write(self, plan: Plan, shard: int, rows: Rows) -> None:
        """Commit a shard."""
        metadata: dict[bytes | str, str] = {PLAN: plan.key, SHARD: str(shard)}
        for name, outputs in vector_files(plan, shard).items():
            data = columns.encode(name, {output: rows.vectors[output] for output in outputs})
            self._commit_bytes(name, data)
            metadata[hash_key(name)] = hashlib.sha256(data).hexdigest()
        planned = plan.rows(shard)
        kept = plan.kept.slice(planned.start, len(planned))
        inside = rows.vectors if plan.identity["format"] == "parquet" else {}
        table = _table(rows, kept, inside).replace_schema_metadata(metadata)
        self._commit_bytes(table_name(shard), _encode(table))

    def read(self, plan: Plan, shard: int) -> Rows | None:
        """A committed shard, every byte of it checked; None if it is not there. Raises DamagedShard."""
        try:
            data = (self.root / table_name(shard)).read_bytes()
            table = read_table(data, checked=True).combine_chunks()
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
        beside = vector_files(plan, shard)
        vectors = {} if beside else {name: columns.array(table[name], shape) for name, shape in plan.shapes.items()}
        for name, outputs in beside.items():
            vectors |= self._read_vectors(name, metadata[hash_key(name).encode()].decode(), outputs)
        planned = plan.rows(shard)
        paths = plan.files["path"].slice(planned.start, len(planned)).to_pylist()
        return Rows(paths, vectors, *(table[name].to_pylist() for name in _FACTS))

    def _commit_bytes(self, name: str, data: bytes) -> None:
        self.commit(name, lambda file: file.write(data))

    def _read_vectors(self, name: str, sha256: str, outputs: list[str]) -> dict[str, NDArray[Any]]:
        try:
            data = (self.root / name).read_bytes()
        except FileNotFoundError:
            raise DamagedShard(f"misses {name}") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedShard(f"does not go with {name}")
        return columns.decode(name, data, outputs)


def table_name(shard: int) -> str:
    """The file name of a shard's table."""
    return f"embeddings-{shard:05d}.parquet"


def vector_files(plan: Plan, shard: int) -> dict[str, list[str]]:
    """The files beside a shard's table, and which outputs each holds."""
    return columns.file_names(f"embeddings-{shard:05d}", plan.identity["format"], list(plan.shapes))


def names(plan: Plan, shard: int) -> list[str]:
    """The file names of a shard: its table, and those beside it."""
    return [table_name(shard), *vector_files(plan, shard)]


def hash_key(name: str) -> str:
    """Under which key a table's metadata have the sha256 of a file beside it."""
    output = name.split(".")[1:-1]  # none in that of the embedding
    return ".".join([_VECTORS, *output])


def is_shard_file(name: object) -> bool:
    """Whether this is a name that a part of a shard can have."""
    return isinstance(name, str) and _SHARD_FILE.fullmatch(name) is not None


def _table(rows: Rows, kept: pa.Table, vectors: columns.Arrays) -> pa.Table:
    shown = [path.decode(errors="backslashreplace") for path in rows.paths]
    raw = [None if text.encode() == path else path for text, path in zip(shown, rows.paths, strict=True)]
    facts = (getattr(rows, name) for name in _FACTS)
    table = pa.table([shown, raw, *facts], schema=_COLUMNS)
    for field in kept.schema:
        table = table.append_column(field.name, kept[field.name].combine_chunks())
    for name, values in vectors.items():
        table = table.append_column(*columns.column(name, values, rows.status))
    return table


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
