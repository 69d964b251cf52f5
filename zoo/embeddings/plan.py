"""The plan of an extraction, frozen before its first shard: every shard is a pure function of the plan.

A plan is the list of files and the fingerprint of the run. It stands in ``OUT/.zoo/plan.parquet`` and is created once,
by the first of several processes. A later run into the same folder must agree with it, or is told what differs.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.embeddings.fingerprint import Fingerprint
from zoo.errors import UserError
from zoo.sources.base import IN_CONTAINER
from zoo.sources.file_listing import FILES
from zoo.system.atomic_files import create_exclusively
from zoo.system.json_reader import fields, parse_json
from zoo.system.parquet import read_table

_FINGERPRINT = b"zoo.identity"
_REUSE = pa.field("zoo.reuse", pa.int64())
_DUPLICATES = ["zoo.copy_of", "zoo.sha256", "zoo.width", "zoo.height"]
_VALUES_AT_ONCE = 65536


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


@dataclass(frozen=True, eq=False)
class Plan:
    """The fingerprint and the files of one extraction.

    Attributes:
        fingerprint: its ``batch_size`` and ``shard_size`` cut the files into batches and shards.
        files: the listing of a ``Source``; row i of it is row i of the result.
        reuse: int64 [rows]; in the plan of an update the row of the earlier plan whose vector is copied, else -1.
        duplicates: with ``--dedupe`` the table of ``zoo.extraction.exact_duplicates``; duplicates are not embedded.
    """

    fingerprint: Fingerprint
    files: pa.Table
    reuse: NDArray[np.int64]
    duplicates: pa.Table | None = None

    @classmethod
    def new(cls, fingerprint: Fingerprint, files: pa.Table, duplicates: pa.Table | None = None) -> Plan:
        """Return a plan that copies no row of an earlier result."""
        return cls(fingerprint, files, np.full(len(files), -1, np.int64), duplicates)

    @cached_property
    def key(self) -> str:
        """64 hex digits that name the plan: a hash of fingerprint, paths, sizes, kept columns and duplicates.

        Modification times are left out, so that a copied folder gives the same bytes.
        """
        digest = hashlib.sha256(self.fingerprint.canonical())
        for path, size in self._paths_and_sizes():
            digest.update(b"%d %d %b\n" % (size, len(path), path))
        if self.kept.num_columns:
            digest.update(digest_of(self.kept))
        if self.duplicates is not None:
            digest.update(digest_of(self.duplicates))
        return digest.hexdigest()

    @property
    def kept(self) -> pa.Table:
        """The columns of the source that the result carries."""
        return kept_columns(self.files)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.files) // self.fingerprint.shard_size)

    def rows(self, shard: int) -> range:
        """Return the row numbers of a shard."""
        size = self.fingerprint.shard_size
        return range(shard * size, min((shard + 1) * size, len(self.files)))

    def to_compute(self, shard: int) -> NDArray[np.int64]:
        """Return the rows of a shard that are embedded, in order: neither reused nor duplicates."""
        rows = self.rows(shard)
        wanted = self.reuse[rows.start : rows.stop] < 0
        wanted[[duplicate.row - rows.start for duplicate in self.duplicates_in(shard)]] = False
        return np.flatnonzero(wanted) + rows.start

    def duplicates_in(self, shard: int) -> list[Duplicate]:
        """Return the duplicates of a shard, in order."""
        if self.duplicates is None:
            return []
        rows = self.rows(shard)
        first = self.duplicates["zoo.copy_of"].to_numpy()[rows.start : rows.stop]
        found = np.flatnonzero(first >= 0)
        paths = self.files["path"].take(first[found]).to_pylist()
        facts = (self.duplicates[name].take(found + rows.start).to_pylist() for name in _DUPLICATES[1:])
        return list(map(Duplicate, (found + rows.start).tolist(), paths, *facts))

    @property
    def first_of_bytes(self) -> NDArray[np.int64]:
        """int64 [rows]: for each row the first row with its bytes, itself where no earlier one is known."""
        itself = np.arange(len(self.files))
        if self.duplicates is None:
            return itself
        first = self.duplicates["zoo.copy_of"].to_numpy()
        return np.where(first < 0, itself, first)

    def same_files(self, files: pa.Table) -> bool:
        """Return whether paths, sizes, modification times and kept columns are those of ``files``."""
        return bool(self.files.equals(files))

    def save(self, path: Path, scratch: Path) -> bool:
        """Write the plan to ``path``; return False and write nothing if a plan is already there."""
        table = self.files.append_column(_REUSE, pa.array(self.reuse))
        if self.duplicates is not None:
            for name in _DUPLICATES:
                table = table.append_column(name, self.duplicates[name])
        buffer = io.BytesIO()
        table = table.replace_schema_metadata({_FINGERPRINT: self.fingerprint.canonical()})
        pq.write_table(table, buffer, write_page_checksum=True)
        return create_exclusively(path, buffer.getvalue(), scratch=scratch)

    @classmethod
    def load(cls, path: Path) -> Plan | None:
        """Read the plan at ``path``; ``None`` if there is none. Raises UserError if it cannot be read."""
        try:
            table = read_table(path, checked=True).combine_chunks()
            fingerprint = Fingerprint.from_json(fields(parse_json(table.schema.metadata[_FINGERPRINT])))
            # Separate the planner's own columns from those of the files.
            duplicates = table.select(_DUPLICATES).replace_schema_metadata(None) if fingerprint.dedupe else None
            own = [_REUSE.name, *(_DUPLICATES if fingerprint.dedupe else ())]
            files = table.drop_columns(own).replace_schema_metadata(None)
            _require_listing(files)
            _require_rows(table.schema, pa.schema([_REUSE]), table)
            reuse = table[_REUSE.name].to_numpy()
            if len(reuse) and reuse.min() < -1:
                raise ValueError("a row reuses none")
            if duplicates is not None:
                _require_duplicates(duplicates)
            return cls(fingerprint, files, reuse, duplicates)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror or 'it is damaged'}): choose another --out"
            ) from error
        except Exception as error:  # what Arrow raises for damaged bytes is not a closed set
            raise UserError(f"{path} is damaged: choose another --out") from error

    def _paths_and_sizes(self) -> Iterator[tuple[bytes, int]]:
        for batch in self.files.to_batches(max_chunksize=65536):
            yield from zip(batch["path"].to_pylist(), batch["size"].to_pylist(), strict=True)


def _require_listing(files: pa.Table) -> None:
    """Raise ValueError where the columns are none of a listing: other types, a null, a container that ends nowhere."""
    own = IN_CONTAINER if "inside" in files.schema.names else FILES
    if files.schema.names[: len(own)] != own.names:
        raise ValueError("other columns")
    _require_rows(files.schema, own, files)
    if not len(files):
        raise ValueError("no row")
    if own is IN_CONTAINER:
        inside = files["inside"].to_numpy()
        if inside.min() < 0 or (inside > pc.binary_length(files["path"]).to_numpy()).any():
            raise ValueError("a container is no part of a path")


def _require_duplicates(duplicates: pa.Table) -> None:
    """Raise ValueError where a row is the copy of none that stands before it, or its facts have other types."""
    types = [pa.int64(), pa.string(), pa.int32(), pa.int32()]
    if duplicates.schema.types != types:
        raise ValueError("other columns")
    _require_rows(duplicates.schema, duplicates.schema.field(0), duplicates)
    first = duplicates[_DUPLICATES[0]].to_numpy()
    if ((first < -1) | (first >= np.arange(len(first)))).any():
        raise ValueError("a copy of no earlier row")


def _require_rows(found: pa.Schema, wanted: pa.Schema | pa.Field, table: pa.Table) -> None:
    for field in [wanted] if isinstance(wanted, pa.Field) else wanted:
        if found.field(field.name).type != field.type or table[field.name].null_count:
            raise ValueError(f"column {field.name} has another type or lacks a value")


def kept_columns(files: pa.Table) -> pa.Table:
    """Return the columns of a listing that are not its own, the ones that the result carries."""
    return files.drop_columns([name for name in IN_CONTAINER.names if name in files.schema.names])


def digest_of(table: pa.Table) -> bytes:
    """Hash names, types and values of a table.

    Values are hashed by their text, so that NaN equals NaN and the padding of Arrow's buffers does not count.
    """
    digest = hashlib.sha256(repr([(field.name, str(field.type)) for field in table.schema]).encode())
    for column in table.columns:
        for at in range(0, len(column), _VALUES_AT_ONCE):
            digest.update(repr(column.slice(at, _VALUES_AT_ONCE).to_pylist()).encode(errors="surrogatepass"))
    return digest.digest()
