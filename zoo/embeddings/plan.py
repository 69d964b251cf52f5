"""What one extraction will do, frozen before its first shard: every shard is a pure function of the plan.

A plan is the file list and the identity of the run: all that determines the bytes of the result. It stands in
``OUT/.zoo/plan.parquet`` and is created once, by the first of several writers. A later run into the same
folder must agree with it, or is told in what it differs.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.embeddings.columns import shapes_of
from zoo.errors import UserError
from zoo.sources.base import IN_CONTAINER
from zoo.sources.file_listing import FILES
from zoo.system.atomic_files import create_exclusively
from zoo.system.parquet import read_table

_IDENTITY = b"zoo.identity"
_REUSE = pa.field("zoo.reuse", pa.int64())
_COPIES = ["zoo.copy_of", "zoo.sha256", "zoo.width", "zoo.height"]
_VALUES_AT_ONCE = 65536
_SHOWN = 16  # characters of a hash are enough to tell two apart


class Copy(NamedTuple):
    """A row whose file has the bytes of an earlier one: the path of that, and what is known of the bytes."""

    row: int
    first: bytes
    sha256: str
    width: int | None
    height: int | None


@dataclass(frozen=True, eq=False)
class Plan:
    """The identity and the files of one extraction.

    Attributes:
        identity: JSON-able; ``batch_size`` and ``shard_size`` in it cut the files into shards and batches.
        files: as a ``Source`` lists them; row i of them is row i of the result.
        reuse: int64 [rows]; for an update the row of the previous plan whose vector is taken over, else -1.
        copies: with ``--dedupe`` what ``zoo.extraction.exact_duplicates.find_copies`` found; such rows are not
        embedded.
    """

    identity: Mapping[str, Any]
    files: pa.Table
    reuse: NDArray[np.int64]
    copies: pa.Table | None = None

    @classmethod
    def new(cls, identity: Mapping[str, Any], files: pa.Table, copies: pa.Table | None = None) -> Plan:
        """A plan that takes over nothing."""
        return cls(identity, files, np.full(len(files), -1, np.int64), copies)

    @cached_property
    def key(self) -> str:
        """64 hex digits that name the plan: identity, paths, sizes, kept columns and copies.

        Not the modification times, so that a copied folder gives the same bytes.
        """
        digest = hashlib.sha256(_canonical(self.identity))
        for path, size in self._pairs():
            digest.update(b"%d %d %b\n" % (size, len(path), path))
        if self.kept.num_columns:
            digest.update(_digest(self.kept))
        if self.copies is not None:
            digest.update(_digest(self.copies))
        return digest.hexdigest()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the outputs of a row, ``embedding`` first."""
        return shapes_of(self.identity)

    @property
    def kept(self) -> pa.Table:
        """The columns that the source carries along, by their names in the result."""
        return kept_columns(self.files)

    @property
    def shards(self) -> int:
        """How many shards the files make."""
        return -(-len(self.files) // int(self.identity["shard_size"]))

    def rows(self, shard: int) -> range:
        """The rows of shard number ``shard``."""
        size = int(self.identity["shard_size"])
        return range(shard * size, min((shard + 1) * size, len(self.files)))

    def to_compute(self, shard: int) -> NDArray[np.int64]:
        """The rows of a shard that are neither taken over nor copies, in order."""
        rows = self.rows(shard)
        wanted = self.reuse[rows.start : rows.stop] < 0
        wanted[[copy.row - rows.start for copy in self.copies_in(shard)]] = False
        return np.flatnonzero(wanted) + rows.start

    def copies_in(self, shard: int) -> list[Copy]:
        """The rows of a shard that are copies, in order."""
        if self.copies is None:
            return []
        rows = self.rows(shard)
        copy_of = self.copies["zoo.copy_of"].to_numpy()[rows.start : rows.stop]
        found = np.flatnonzero(copy_of >= 0)
        paths = self.files["path"].take(copy_of[found]).to_pylist()
        facts = (self.copies[name].take(found + rows.start).to_pylist() for name in _COPIES[1:])
        return list(map(Copy, (found + rows.start).tolist(), paths, *facts))

    @property
    def first_of_bytes(self) -> NDArray[np.int64]:
        """int64 [rows]: for each row the first one that has its bytes, itself where no earlier one is known."""
        itself = np.arange(len(self.files))
        if self.copies is None:
            return itself
        copy_of = self.copies["zoo.copy_of"].to_numpy()
        return np.where(copy_of < 0, itself, copy_of)

    def same_files(self, files: pa.Table) -> bool:
        """Whether paths, sizes, modification times and kept columns are those of ``files``."""
        return bool(self.files.equals(files))

    def save(self, path: Path, scratch: Path) -> bool:
        """Write it to ``path`` unless a plan is already there: False then."""
        table = self.files.append_column(_REUSE, pa.array(self.reuse))
        if self.copies is not None:
            for name in _COPIES:
                table = table.append_column(name, self.copies[name])
        buffer = io.BytesIO()
        table = table.replace_schema_metadata({_IDENTITY: _canonical(self.identity)})
        pq.write_table(table, buffer, write_page_checksum=True)
        return create_exclusively(path, buffer.getvalue(), scratch=scratch)

    @classmethod
    def load(cls, path: Path) -> Plan | None:
        """The plan at ``path``, None if there is none. UserError if it cannot be read."""
        try:
            table = read_table(path, checked=True).combine_chunks()
            identity = json.loads(table.schema.metadata[_IDENTITY])
            copies = table.select(_COPIES).replace_schema_metadata(None) if "dedupe" in identity else None
            own = [_REUSE.name, *(_COPIES if copies is not None else ())]
            files = table.drop_columns(own).replace_schema_metadata(None)
            if files.schema.names[: len(FILES)] != FILES.names:
                raise ValueError("other columns")
            return cls(identity, files, table[_REUSE.name].to_numpy(), copies)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: choose another --out") from error

    def _pairs(self) -> Iterator[tuple[bytes, int]]:
        for batch in self.files.to_batches(max_chunksize=65536):
            yield from zip(batch["path"].to_pylist(), batch["size"].to_pylist(), strict=True)


@dataclass(frozen=True)
class Changes:
    """How a folder differs from the files of a plan.

    Attributes:
        previous: for each row of the new list the row of the plan with the same path, -1 for none.
        added: rows of the new list that have no such row.
        resized: rows of the new list with another size.
        touched: rows of the new list with the same size and another modification time.
        removed: rows of the plan whose path is gone.
        rearranged: whether the rows stand in another order, or a kept column has other values.
    """

    previous: NDArray[np.int64]
    added: NDArray[np.int64]
    resized: NDArray[np.int64]
    touched: NDArray[np.int64]
    removed: NDArray[np.int64]
    rearranged: bool


def kept_columns(files: pa.Table) -> pa.Table:
    """The columns of a source's table that are not its own."""
    return files.drop_columns([name for name in IN_CONTAINER.names if name in files.schema.names])


def compare(planned: pa.Table, found: pa.Table) -> Changes:
    """``planned`` (a plan's files) against ``found`` (those of the source now)."""
    previous = _positions(found, planned)
    common = np.flatnonzero(previous >= 0)
    resized, moved = (
        found[column].to_numpy()[common] != planned[column].to_numpy()[previous[common]]
        for column in ("size", "mtime_ns")
    )
    return Changes(
        previous=previous,
        added=np.flatnonzero(previous < 0),
        resized=common[resized],
        touched=common[moved & ~resized],
        removed=np.flatnonzero(_positions(planned, found) < 0),
        rearranged=not planned["path"].equals(found["path"])
        or _digest(kept_columns(planned)) != _digest(kept_columns(found)),
    )


def differences(planned: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In what two identities differ, as "key: old there, new now", keys of nested parts joined by dots."""
    old, new = _flat(planned), _flat(wanted)
    return [
        f"{key} {_shown(old.get(key))} there, {_shown(new.get(key))} now"
        for key in [*new, *(key for key in old if key not in new)]
        if old.get(key) != new.get(key)
    ]


def _positions(needles: pa.Table, haystack: pa.Table) -> NDArray[np.int64]:
    index = pc.index_in(needles["path"], value_set=haystack["path"].combine_chunks())
    return np.asarray(index.fill_null(-1).to_numpy(), dtype=np.int64)


def _digest(table: pa.Table) -> bytes:
    """Of names, types and values. By their text: NaN is the same as NaN, and no buffer's padding counts."""
    digest = hashlib.sha256(repr([(field.name, str(field.type)) for field in table.schema]).encode())
    for column in table.columns:
        for at in range(0, len(column), _VALUES_AT_ONCE):
            digest.update(repr(column.slice(at, _VALUES_AT_ONCE).to_pylist()).encode(errors="surrogatepass"))
    return digest.digest()


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item})
    return flat


def _shown(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:_SHOWN] + "..." if is_hash else text
