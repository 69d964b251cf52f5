"""The plan of an extraction, frozen before its first shard: every shard is a pure function of the plan.

A plan is the list of files and the fingerprint of the run. It stands in ``OUT/.zoo/plan.parquet`` and is created once,
by the first of several processes. A later run into the same folder must agree with it, or is told what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.embeddings.fingerprint import Fingerprint
from zoo.errors import UserError, reason_of
from zoo.sources.base import IN_CONTAINER, require_listing, require_rows
from zoo.system.atomic_files import create_exclusively
from zoo.system.json_reader import fields, parse_json
from zoo.system.row_groups import RowGroups, open_rows

_FINGERPRINT = b"zoo.identity"
_REUSE = pa.field("zoo.reuse", pa.int64())
_DUPLICATES = ["zoo.copy_of", "zoo.sha256", "zoo.width", "zoo.height"]
_VALUES_AT_ONCE = 65536
ROWS_PER_GROUP = 1 << 20
"""Rows of a row group of the file, pyarrow's default, which earlier versions wrote."""


class Duplicate(NamedTuple):
    """A row whose file has the bytes of an earlier one.

    Attributes:
        row: its number.
        first: path of the earliest file with these bytes.
        sha256: of the bytes.
        width, height: of the image; ``None`` where it cannot be decoded.
    """

    row: int
    first: bytes
    sha256: str
    width: int | None
    height: int | None


class Plan:
    """The fingerprint and the files of one extraction.

    A plan that was loaded is read by row groups, so that one of 10**7 files takes the memory of one of 10**6.

    Attributes:
        fingerprint: its ``batch_size`` and ``shard_size`` cut the files into batches and shards.
        images: number of files; row i of their listing is row i of the result.
        has_duplicates: with ``--dedupe``; duplicates are not embedded.

    Args:
        fingerprint: what decides the bytes besides the files.
        files: the listing of a ``Source``.
        reuse: int64 [rows]; in the plan of an update the row of the earlier plan whose vector is copied, else -1.
            ``None`` copies none.
        duplicates: the table of ``zoo.extraction.exact_duplicates``.
    """

    def __init__(
        self,
        fingerprint: Fingerprint,
        files: pa.Table,
        reuse: NDArray[np.int64] | None = None,
        duplicates: pa.Table | None = None,
    ) -> None:
        rows = files if reuse is None else files.append_column(_REUSE, pa.array(reuse))
        if duplicates is not None:
            for name in _DUPLICATES:
                rows = rows.append_column(name, duplicates[name])
        self._set(fingerprint, rows, reuse is not None)

    def _set(self, fingerprint: Fingerprint, rows: pa.Table | RowGroups, reuses: bool) -> None:
        self.fingerprint = fingerprint
        self.images: int = rows.num_rows
        self.has_duplicates = fingerprint.dedupe and _DUPLICATES[0] in rows.schema.names
        self._rows, self._reuses = rows, reuses

    @classmethod
    def new(cls, fingerprint: Fingerprint, files: pa.Table, duplicates: pa.Table | None = None) -> Plan:
        """Return a plan that copies no row of an earlier result."""
        return cls(fingerprint, files, None, duplicates)

    def without_reuse(self) -> Plan:
        """Return the same plan, copying no row: those that an update reused are in the shards by now."""
        plan = Plan.__new__(Plan)
        plan._set(self.fingerprint, self._rows, False)
        return plan

    @cached_property
    def key(self) -> str:
        """64 hex digits that name the plan: a hash of fingerprint, paths, sizes, kept columns and duplicates.

        Modification times are left out, so that a copied folder gives the same bytes.
        """
        digest = hashlib.sha256(self.fingerprint.canonical())
        for start in range(0, self.images, _VALUES_AT_ONCE):
            part = self._slice(start, _VALUES_AT_ONCE, ("path", "size"))
            for path, size in zip(part["path"].to_pylist(), part["size"].to_pylist(), strict=True):
                digest.update(b"%d %d %b\n" % (size, len(path), path))
        if kept := _kept_names(self._files_schema):
            digest.update(self._digest(kept))
        if self.has_duplicates:
            digest.update(self._digest(_DUPLICATES))
        return digest.hexdigest()

    @property
    def files(self) -> pa.Table:
        """The whole listing, in memory: for those who compare all of it. ``files_of`` reads a part."""
        return self._column_table(tuple(self._files_schema.names))

    @property
    def is_inside_files(self) -> bool:
        """Whether the images lie in tar files or tables."""
        return "inside" in self._rows.schema.names

    @cached_property
    def reuse(self) -> NDArray[np.int64]:
        """int64 [rows]: the earlier plan's row whose vector is copied; -1 for a new image."""
        if not self._reuses:
            return np.full(self.images, -1, np.int64)
        found: NDArray[np.int64] = self._column_table((_REUSE.name,))[_REUSE.name].to_numpy()
        return found

    @property
    def duplicates(self) -> pa.Table | None:
        """The whole table of duplicates, in memory; ``None`` where none were looked for."""
        return self._column_table(tuple(_DUPLICATES)) if self.has_duplicates else None

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.fingerprint.shard_size)

    def rows(self, shard: int) -> range:
        """Return the row numbers of a shard."""
        size = self.fingerprint.shard_size
        return range(shard * size, min((shard + 1) * size, self.images))

    def files_of(self, rows: range) -> pa.Table:
        """Return the listing of consecutive rows."""
        return self._slice(rows.start, len(rows), None).select(self._files_schema.names)

    def files_at(self, rows: NDArray[np.int64]) -> pa.Table:
        """Return the listing of rows that stand near each other, in this order."""
        if not len(rows):
            return self.files_of(range(0))
        first = int(rows.min())
        return self.files_of(range(first, int(rows.max()) + 1)).take(rows - first)

    def paths_at(self, rows: NDArray[np.int64]) -> pa.ChunkedArray:
        """Return the paths of any rows; from the first call on all paths are in memory."""
        return self._paths.take(pa.array(rows, pa.int64()))

    @cached_property
    def _paths(self) -> pa.ChunkedArray:
        return self._column_table(("path",))["path"]

    def kept_of(self, rows: range) -> pa.Table:
        """Return the columns of the source that the result carries, of consecutive rows."""
        return kept_columns(self.files_of(rows))

    def reuse_of(self, shard: int) -> NDArray[np.int64]:
        """Return ``reuse`` of the rows of a shard."""
        rows = self.rows(shard)
        if not self._reuses:
            return np.full(len(rows), -1, np.int64)
        found: NDArray[np.int64] = self._slice(rows.start, len(rows), None)[_REUSE.name].to_numpy()
        return found

    def to_compute(self, shard: int) -> NDArray[np.int64]:
        """Return the rows of a shard that are embedded, in order: neither reused nor duplicates."""
        rows = self.rows(shard)
        wanted = self.reuse_of(shard) < 0
        wanted[[duplicate.row - rows.start for duplicate in self.duplicates_in(shard)]] = False
        return np.flatnonzero(wanted) + rows.start

    def duplicates_in(self, shard: int) -> list[Duplicate]:
        """Return the duplicates of a shard, in order."""
        if not self.has_duplicates:
            return []
        rows = self.rows(shard)
        part = self._slice(rows.start, len(rows), None)
        first = part["zoo.copy_of"].to_numpy()
        found = np.flatnonzero(first >= 0)
        paths = self.paths_at(first[found]).to_pylist()
        facts = (part[name].take(found).to_pylist() for name in _DUPLICATES[1:])
        return list(map(Duplicate, (found + rows.start).tolist(), paths, *facts))

    @property
    def first_of_bytes(self) -> NDArray[np.int64]:
        """int64 [rows]: for each row the first row with its bytes, itself where no earlier one is known."""
        itself = np.arange(self.images)
        if self.duplicates is None:
            return itself
        first = self.duplicates["zoo.copy_of"].to_numpy()
        return np.where(first < 0, itself, first)

    def same_files(self, files: pa.Table) -> bool:
        """Return whether paths, sizes, modification times and kept columns are those of ``files``."""
        if len(files) != self.images or not files.schema.equals(self._files_schema):
            return False
        parts = range(0, self.images, _VALUES_AT_ONCE)
        return all(
            self.files_of(range(at, at + _VALUES_AT_ONCE)).equals(files.slice(at, _VALUES_AT_ONCE)) for at in parts
        )

    def save(self, path: Path, scratch: Path) -> bool:
        """Write the plan to ``path``; return False and write nothing if a plan is already there."""
        return create_exclusively(path, self._write, scratch=scratch)

    def _write(self, file: BinaryIO) -> None:
        """Write one row group after the other: the same bytes as ``pq.write_table`` of all rows at once."""
        metadata = {_FINGERPRINT: self.fingerprint.canonical()}
        writer: pq.ParquetWriter | None = None
        for start in range(0, max(1, self.images), ROWS_PER_GROUP):
            rows = range(start, min(start + ROWS_PER_GROUP, self.images))
            part = self._slice(start, len(rows), None)
            names = [*self._files_schema.names, *([_REUSE.name] if self._reuses else ())]
            table = part.select(names)
            if not self._reuses:
                table = table.append_column(_REUSE, pa.array(np.full(len(rows), -1, np.int64)))
            for name in _DUPLICATES if self.has_duplicates else ():
                table = table.append_column(name, part[name])
            table = table.replace_schema_metadata(metadata)
            writer = writer or pq.ParquetWriter(file, table.schema, write_page_checksum=True)
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        assert writer is not None
        writer.close()

    @classmethod
    def load(cls, path: Path) -> Plan | None:
        """Open the plan at ``path``; ``None`` if there is none. Every row is checked, a row group at a time.

        Raises:
            UserError: it cannot be read, or it is damaged.
        """
        try:
            rows = open_rows(path)
            fingerprint = Fingerprint.from_json(fields(parse_json(rows.schema.metadata[_FINGERPRINT])))
            plan = cls.__new__(cls)
            plan._set(fingerprint, rows, True)
            plan._check()
            return plan
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror or 'it is damaged'}): choose another --out"
            ) from error
        except Exception as error:  # what Arrow raises for damaged bytes is not a closed set
            raise UserError(f"{path} is damaged: choose another --out") from error

    @classmethod
    def registered_model(cls, path: Path) -> str | None:
        """Return ``Fingerprint.registered_model`` of the plan at ``path``; ``None``, too, where ``load`` refuses it."""
        try:
            return Fingerprint.from_json(
                fields(parse_json(open_rows(path).schema.metadata[_FINGERPRINT]))
            ).registered_model
        except Exception:  # what Arrow raises for damaged bytes is not a closed set
            return None

    def _check(self) -> None:
        """Raise ValueError or KeyError where a row or a column is none of a plan."""
        if not self.images:
            raise ValueError("no row")
        files = self._files_schema.names
        step = self.images if isinstance(self._rows, pa.Table) else ROWS_PER_GROUP
        for start in range(0, self.images, step):
            part = self._rows.slice(start, step)
            require_listing(part.select(files))
            require_rows(part.schema, pa.schema([_REUSE]), part)
            if pc.min(part[_REUSE.name]).as_py() < -1:
                raise ValueError("a row reuses none")
            if self.fingerprint.dedupe:
                _require_duplicates(part.select(_DUPLICATES), start)

    @cached_property
    def _files_schema(self) -> pa.Schema:
        """The columns of the listing, without those of the plan."""
        own = {_REUSE.name} if _REUSE.name in self._rows.schema.names else set()
        own |= set(_DUPLICATES) if self.fingerprint.dedupe else set()
        return pa.schema([field for field in self._rows.schema if field.name not in own])

    def _slice(self, start: int, length: int, columns: tuple[str, ...] | None) -> pa.Table:
        if isinstance(self._rows, pa.Table):
            part = self._rows.slice(start, length)
            return part if columns is None else part.select(list(columns))
        try:
            return self._rows.slice(start, length, columns)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"the plan cannot be read any more ({reason_of(error)}): run the same command again"
            ) from None

    def _column_table(self, columns: tuple[str, ...]) -> pa.Table:
        table = self._rows.select(columns) if isinstance(self._rows, pa.Table) else self._rows.read(columns)
        return table.replace_schema_metadata(None)

    def _digest(self, names: Sequence[str]) -> bytes:
        schema = self._rows.schema
        return _digest(
            [schema.field(name) for name in names],
            lambda name, at: self._slice(at, _VALUES_AT_ONCE, (name,))[name],
            self.images,
        )


def _require_duplicates(duplicates: pa.Table, start: int) -> None:
    """Raise ValueError where a row is the copy of none that stands before it, or its facts have other types.

    Args:
        duplicates: of the rows from ``start`` on.
    """
    types = [pa.int64(), pa.string(), pa.int32(), pa.int32()]
    if duplicates.schema.types != types:
        raise ValueError("other columns")
    require_rows(duplicates.schema, duplicates.schema.field(0), duplicates)
    first = duplicates[_DUPLICATES[0]].to_numpy()
    if ((first < -1) | (first >= np.arange(start, start + len(first)))).any():
        raise ValueError("a copy of no earlier row")


def kept_columns(files: pa.Table) -> pa.Table:
    """Return the columns of a listing that are not its own, the ones that the result carries."""
    return files.select(_kept_names(files.schema))


def _kept_names(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if name not in IN_CONTAINER.names]


def digest_of(table: pa.Table) -> bytes:
    """Hash names, types and values of a table.

    Values are hashed by their text, so that NaN equals NaN and the padding of Arrow's buffers does not count.
    """
    return _digest(list(table.schema), lambda name, at: table[name].slice(at, _VALUES_AT_ONCE), len(table))


def _digest(columns: Sequence[pa.Field], values: Callable[[str, int], pa.ChunkedArray], rows: int) -> bytes:
    """Hash columns; ``values`` returns the next ``_VALUES_AT_ONCE`` values of a column from a row on."""
    digest = hashlib.sha256(repr([(field.name, str(field.type)) for field in columns]).encode())
    for field in columns:
        for at in range(0, rows, _VALUES_AT_ONCE):
            digest.update(repr(values(field.name, at).to_pylist()).encode(errors="surrogatepass"))
    return digest.digest()
