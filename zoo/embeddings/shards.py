"""The result of an extraction, cut into shards of a fixed number of rows.

A shard is ``embeddings-00000.parquet``. With format npy or safetensors the table has no columns of outputs; the files
beside it hold them (``zoo.embeddings.columns.file_names``) and the table holds the hashes of these files. They are
written first, so that the table's rename commits the shard. The bytes depend on the plan and the images alone.

The table also holds its own hash: the sha256 of the file with the 64 digits of the hash set to zero, in the footer
under ``zoo.sha256``. A shard is unaltered if the hash agrees, whatever version of pyarrow reads it. The hash is in the
file and not beside it so that one rename commits both: there is no moment between two files at which a kill, or a
second process that writes the same shard, could leave a table with another table's hash. It also goes wherever the
file goes: into place at the end of an update, to another machine, back from a copy.
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

from zoo.embeddings import columns
from zoo.embeddings.columns import OK, Vectors
from zoo.embeddings.plan import Plan
from zoo.inference.outputs import EMBEDDING
from zoo.sources.base import IN_CONTAINER
from zoo.system import atomic_files
from zoo.system.json_reader import read_json
from zoo.system.parquet import read_table

DUPLICATE = "duplicate"
STATE = ".zoo"

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
_NEVER_NULL = ("path", "status")
RESERVED = frozenset((*_COLUMNS.names, EMBEDDING, *IN_CONTAINER.names))
"""Names that a kept column cannot have: the result has columns of these names."""
PLAN, SHARD, _VECTORS = b"zoo.plan", b"zoo.shard", "zoo.vectors_sha256"
OWN_SHA256 = b"zoo.sha256"
_NO_DIGITS = b"0" * 64
_FACTS = ("sha256", "width", "height", "status", "error")


MANIFEST = "_manifest.json"
"""Name of the manifest: readers of Parquet folders (pandas, pyarrow, datasets) pass over names that begin with _."""
OLD_MANIFEST = "manifest.json"
"""Its name in results of earlier versions."""


class DamagedShard(Exception):
    """A shard file is not what a run of this plan wrote; the text says why."""


class OutputReplaced(Exception):
    """Another run has put a new result into the output folder: look again at what is left to do."""


@dataclass
class Rows:
    """The rows of one shard while they are filled in, each in a slot of its own.

    Attributes:
        paths: raw bytes.
        vectors: float32 or float16 [rows, ...] by output, NaN where there is none; ``embedding`` is always there.
        sha256, width, height, status, error: columns of the table, ``None`` where not known.
    """

    paths: list[bytes]
    vectors: dict[str, Vectors]
    sha256: list[str | None]
    width: list[int | None]
    height: list[int | None]
    status: list[str | None]
    error: list[str | None]

    @classmethod
    def empty(cls, plan: Plan, shard: int) -> Rows:
        """Return the rows of a shard: duplicates are filled in, all other slots are empty."""
        # Every row starts without facts, its vectors NaN.
        planned = plan.rows(shard)
        n = len(planned)
        paths = plan.files_of(planned)["path"].to_pylist()
        dtype = plan.fingerprint.dtype
        vectors = {name: np.full((n, *shape), np.nan, dtype) for name, shape in plan.fingerprint.shapes.items()}
        rows = cls(paths, vectors, [None] * n, [None] * n, [None] * n, [None] * n, [None] * n)
        # A duplicate has its facts from the plan, and is not embedded.
        for duplicate in plan.duplicates_in(shard):
            slot = duplicate.row - planned.start
            rows.status[slot], rows.sha256[slot] = DUPLICATE, duplicate.sha256
            rows.width[slot], rows.height[slot] = duplicate.width, duplicate.height
            rows.error[slot] = f"the same bytes as {duplicate.first.decode(errors='backslashreplace')}"
        return rows

    @property
    def failed(self) -> int:
        """Number of rows that are no duplicates and have no vector."""
        return sum(status not in (OK, DUPLICATE) for status in self.status)

    def copy_row(self, slot: int, other: Rows, index: int) -> None:
        """Fill a slot with a row of another shard, except for the path."""
        for name, values in self.vectors.items():
            values[slot] = other.vectors[name][index]
        for name in _FACTS:
            getattr(self, name)[slot] = getattr(other, name)[index]


class OutputFolder:
    """A folder of shards made by one plan, with the state of the run in ``.zoo``.

    Attributes:
        root: the folder.
        state: ``.zoo`` in it.
        scratch: for temporary files.
        plan: path of the plan.
        manifest_hash: path of the hash of the manifest, see ``zoo.embeddings.manifest``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / STATE
        self.scratch = self.state / "tmp"
        self.plan = self.state / "plan.parquet"
        self.manifest_hash = self.state / "manifest.sha256"

    @property
    def manifest(self) -> Path:
        """Path of the manifest; a folder that has one is complete. One of an earlier version keeps its name."""
        new, old = self.root / MANIFEST, self.root / OLD_MANIFEST
        return old if not new.exists() and old.exists() else new

    @property
    def staged(self) -> OutputFolder:
        """The folder in which an update makes its result; with a manifest in it the result is complete."""
        return OutputFolder(self.state / "next")

    def create(self) -> None:
        """Make the folders. Raises UserError where that is refused."""
        atomic_files.make_folder(self.scratch)

    def shard_files(self) -> set[str]:
        """Return the names of the shard files present, of whatever plan."""
        if not self.root.is_dir():
            return set()
        return {path.name for path in self.root.iterdir() if _SHARD_FILE.fullmatch(path.name)}

    def commit(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Put a result file in place. Another run of the same plan may do so at the same time, with the same bytes."""
        try:
            atomic_files.atomic_write(self.root / name, write, scratch=self.scratch)
        except FileNotFoundError:
            # A run that finished before this one has removed the temporary files; then all results are in place.
            if not (self.root / name).exists():
                raise

    def write(self, plan: Plan, shard: int, rows: Rows) -> None:
        """Commit a shard."""
        # The files beside the table are written first: the table commits the shard.
        metadata: dict[bytes | str, str] = {PLAN: plan.key, SHARD: str(shard)}
        for name, outputs in vector_files(plan, shard).items():
            data = columns.encode(name, {output: rows.vectors[output] for output in outputs})
            self._commit_bytes(name, data)
            metadata[hash_key(name)] = hashlib.sha256(data).hexdigest()
        # Then the table, with the columns that the plan keeps.
        planned = plan.rows(shard)
        kept = plan.kept_of(planned)
        inside = rows.vectors if plan.fingerprint.format == "parquet" else {}
        table = _table(rows, kept, inside).replace_schema_metadata(metadata)
        self._commit_bytes(table_name(shard), _with_own_sha256(_encode(table, {OWN_SHA256: _NO_DIGITS})))

    def read(self, plan: Plan, shard: int) -> Rows | None:
        """Read a committed shard and check every byte of it; return ``None`` if it is not there.

        Raises:
            DamagedShard: a file of the shard is altered, missing, or of another run.
        """
        try:
            data = (self.root / table_name(shard)).read_bytes()
        except FileNotFoundError:
            return None
        # Check the bytes before their contents are used.
        try:
            digits = (pq.read_metadata(io.BytesIO(data)).metadata or {}).get(OWN_SHA256)
            if digits is not None and digits != _own_sha256(data, digits):
                raise DamagedShard("was altered")
            table = read_table(data, checked=digits is None).combine_chunks()
        except DamagedShard:
            raise
        except Exception as error:  # what Arrow raises for damaged bytes is not a closed set
            raise DamagedShard("cannot be read") from error
        # Check that the shard belongs to this plan.
        metadata = table.schema.metadata or {}
        if (metadata.get(PLAN), metadata.get(SHARD)) != (plan.key.encode(), b"%d" % shard):
            raise DamagedShard("belongs to another run")
        if digits is None and not self._is_unaltered_without_hash(plan, table_name(shard), data, table):
            raise DamagedShard("was altered")

        # A table whose hash agrees can still have been made by somebody, with other columns.
        try:
            return self._rows(plan, shard, table)
        except (DamagedShard, OSError):
            raise
        except Exception as error:  # what Arrow and numpy raise for foreign columns
            raise DamagedShard("is no table of embeddings") from error

    def _rows(self, plan: Plan, shard: int, table: pa.Table) -> Rows:
        planned, shapes = plan.rows(shard), plan.fingerprint.shapes
        require_columns(table)
        if len(table) != len(planned):
            raise DamagedShard("has other rows than its plan")
        # The vectors stand in the table or beside it.
        beside = vector_files(plan, shard)
        vectors = {} if beside else {name: columns.array(table[name], shape) for name, shape in shapes.items()}
        for name, outputs in beside.items():
            vectors |= self._read_vectors(name, table.schema.metadata[hash_key(name).encode()].decode(), outputs)
        found = {name: values.shape for name, values in vectors.items()}
        if found != {name: (len(planned), *shape) for name, shape in shapes.items()}:
            raise DamagedShard("has other outputs than its plan")
        # All is sound: join the facts with the planned paths.
        paths = plan.files_of(planned)["path"].to_pylist()
        return Rows(paths, vectors, *(table[name].to_pylist() for name in _FACTS))

    def _is_unaltered_without_hash(self, plan: Plan, name: str, data: bytes, table: pa.Table) -> bool:
        """Check a shard of an earlier version (0.2 and before), which has no hash of its own.

        If the run was finished, its manifest has the hash. Otherwise the pages have checksums, and the rest of the file
        is compared with the only encoding of the table that this pyarrow writes. With another pyarrow that encoding
        can differ, and the shard is made again, which costs time and loses nothing.
        """
        try:
            manifest: Any = read_json(self.manifest)
            recorded = {part["file"]: part["sha256"] for part in manifest["shards"]}
            if manifest["plan"] == plan.key and recorded.get(name) == hashlib.sha256(data).hexdigest():
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return _encode(table) == data

    def _commit_bytes(self, name: str, data: bytes) -> None:
        self.commit(name, lambda file: file.write(data))

    def _read_vectors(self, name: str, sha256: str, outputs: list[str]) -> dict[str, Vectors]:
        try:
            data = (self.root / name).read_bytes()
        except FileNotFoundError:
            raise DamagedShard(f"misses {name}") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedShard(f"does not go with {name}")
        return columns.decode(name, data, outputs)


def table_name(shard: int) -> str:
    """Return the file name of a shard's table."""
    return f"embeddings-{shard:05d}.parquet"


def vector_files(plan: Plan, shard: int) -> dict[str, list[str]]:
    """Return the files beside a shard's table, and the outputs that each holds."""
    fingerprint = plan.fingerprint
    return columns.file_names(f"embeddings-{shard:05d}", fingerprint.format, list(fingerprint.shapes))


def names(plan: Plan, shard: int) -> list[str]:
    """Return the file names of a shard: its table, and the files beside it."""
    return [table_name(shard), *vector_files(plan, shard)]


def hash_key(name: str) -> str:
    """Return the metadata key under which a table stores the sha256 of the companion file ``name``."""
    output = name.split(".")[1:-1]  # empty for the embedding
    return ".".join([_VECTORS, *output])


def require_columns(table: pa.Table) -> None:
    """Check the columns of a shard's table that are there: their types, and that each row has a path and a status.

    Raises:
        ValueError: somebody else made this table.
    """
    for field in table.schema:
        if field.name in _COLUMNS.names and field.type != _COLUMNS.field(field.name).type:
            raise ValueError(f"column {field.name} is {field.type}")
    for name in _NEVER_NULL:
        if name in table.schema.names and table[name].null_count:
            raise ValueError(f"column {name} lacks a value")


def is_shard_file(name: object) -> bool:
    """Return whether a part of a shard can have this name."""
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


def _encode(table: pa.Table, footer: dict[bytes, bytes] | None = None) -> bytes:
    """Return a Parquet file; the entries of ``footer`` stand once in it, and not in Arrow's copy of the schema."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer,
        table.schema,
        compression={"path": "zstd", "sha256": "zstd"},  # vectors do not compress
        use_dictionary=["status", "error"],
        write_statistics=["path"],
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=len(table))
        if footer:
            writer.add_key_value_metadata(footer)
    return buffer.getvalue()


def _with_own_sha256(data: bytes) -> bytes:
    """Replace the zeros of ``zoo.sha256`` by the hash of a Parquet file."""
    at = data.rindex(_NO_DIGITS)  # the last ones: a file name of 64 zeros stands before, in the statistics of path
    digits = hashlib.sha256(data).hexdigest().encode()
    return data[:at] + digits + data[at + len(digits) :]


def _own_sha256(data: bytes, digits: bytes) -> bytes:
    """Return the hash of a Parquet file whose ``zoo.sha256`` has these digits, as it was when they were zeros."""
    at = data.rfind(digits)
    digest = hashlib.sha256(memoryview(data)[:at])
    digest.update(_NO_DIGITS)
    digest.update(memoryview(data)[at + len(digits) :])
    return digest.hexdigest().encode()
