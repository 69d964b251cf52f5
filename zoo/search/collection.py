"""A finished extraction opened for reading: the path and the embedding of every image.

Row numbers are those of the extraction: row i is image i of the plan. Metadata is read shard by shard, and only a few
shards are cached, so a collection of a million images opens as fast as one of ten.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo.embeddings import manifest as manifest_file
from zoo.embeddings.columns import OK, array, decode
from zoo.embeddings.shards import STATE, OutputFolder, require_columns
from zoo.errors import UserError
from zoo.inference.outputs import EMBEDDING
from zoo.system import atomic_files
from zoo.system.parquet import read_table
from zoo.transforms.limits import DecodeOptions

_PLAN = b"zoo.plan"  # metadata key of a shard's table
_METADATA_COLUMNS = ["path", "path_bytes", "sha256", "status", "error"]
_CACHED_SHARDS = 16  # metadata tables in memory, about 150 bytes per image


@dataclass(frozen=True)
class Item:
    """One image of a collection.

    Attributes:
        row: row number in the collection.
        path: raw bytes, relative to the folder of images.
        sha256: hash of the image file; ``None`` if it could not be read.
        status: ``ok``, or the reason why there is no embedding.
        error: the message that belongs to ``status``.
    """

    row: int
    path: bytes
    sha256: str | None
    status: str
    error: str | None

    @property
    def name(self) -> str:
        """The path as text; bytes that are not UTF-8 are escaped."""
        return self.path.decode(errors="backslashreplace")


@dataclass(frozen=True)
class _Shard:
    """A shard in the manifest; ``vectors`` names the file beside the table that holds the embeddings, if any."""

    file: str
    rows: int
    sha256: str
    vectors: Mapping[str, str] | None


class Collection:
    """The output folder of a complete ``zoo extract``.

    Attributes:
        root: the folder.
        state: the folder ``.zoo`` in it.
        manifest: parsed ``_manifest.json``, see ``zoo.embeddings.manifest``.
        plan: key of the plan that made all shards.
        dim: length of an embedding.
        sha256: hash of ``_manifest.json``, which lists all other hashes: it changes with any change of the result.

    Raises:
        UserError: the folder holds no finished extraction, or its manifest is damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / STATE
        # The one reader of manifests checks every value.
        folder = OutputFolder(root)
        self.manifest: Mapping[str, Any] = manifest_file.read(folder)
        self.plan, self.dim = self.manifest["plan"], self.manifest["dim"]
        self._shards = [_Shard(s["file"], s["rows"], s["sha256"], s.get("vectors")) for s in self.manifest["shards"]]
        self.sha256 = atomic_files.sha256_file(folder.manifest)
        if not isinstance(self.manifest.get("model"), str):
            raise UserError(f"{folder.manifest} is damaged, it names no model: run the same `zoo extract` again")
        # Prepare the look-up of single rows.
        self._ends = list(accumulate(shard.rows for shard in self._shards))  # row after the last one of each shard
        self._metadata = lru_cache(_CACHED_SHARDS)(self._read_metadata)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def model(self) -> str:
        """Name of the model that made the embeddings."""
        return str(self.manifest["model"])

    @property
    def decode_options(self) -> DecodeOptions:
        """The choices about decoding that made the embeddings; a query is decoded alike."""
        decoder = self.manifest.get("decoder")
        return DecodeOptions.from_json(decoder if isinstance(decoder, dict) else {})

    def item(self, row: int) -> Item:
        """Return one image.

        Raises:
            IndexError: there is no such row.
            UserError: its shard is missing or damaged.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.items(row, 1)[0]

    def items(self, start: int, count: int) -> list[Item]:
        """Return at most ``count`` images from row ``start`` on; fewer at the end. UserError as in ``item``."""
        items: list[Item] = []
        stop = min(start + count, len(self))
        while start < stop:
            # the part of start..stop that lies in one shard
            shard, first = self.shard_of(start)
            rows = self._metadata(shard).slice(start - first, stop - start).to_pylist()
            items += [
                Item(row, v["path_bytes"] or v["path"].encode(), v["sha256"], v["status"], v["error"])
                for row, v in enumerate(rows, start)
            ]
            start = self._ends[shard]
        return items

    def shard_of(self, row: int) -> tuple[int, int]:
        """Return the number of the shard that holds a row, and the first row of that shard."""
        shard = bisect_right(self._ends, row)
        return shard, self._ends[shard] - self._shards[shard].rows

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Read some columns shard by shard: the shard's first row and its table. UserError as in ``item``."""
        for shard, end in enumerate(self._ends):
            yield end - self._shards[shard].rows, self.table(shard, columns)

    def table(self, shard: int, columns: Sequence[str]) -> pa.Table:
        """Read some columns of a shard; UserError as in ``item``.

        The plan and the length of the table are checked, its hash is not: that would be slow.
        """
        name, rows = self._shards[shard].file, self._shards[shard].rows
        try:
            table = read_table(self.root / name, list(columns))
            require_columns(table)
            if set(table.schema.names) != set(columns):
                raise ValueError("a column is missing")
            plan = (table.schema.metadata or {}).get(_PLAN, b"").decode()
        except Exception as error:  # Arrow's exceptions for damaged bytes are no closed set
            raise self._damaged(name) from error
        if plan != self.plan or len(table) != rows:
            raise self._damaged(name)
        return table

    def vectors(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read the embeddings shard by shard.

        Yields:
            The shard's first row and its embeddings float32 [rows, D], NaN where an image has none.

        Raises:
            UserError: a shard is missing or does not have the manifest's hash.
        """
        for shard, end in zip(self._shards, self._ends, strict=True):
            yield end - shard.rows, self._read_vectors(shard)

    def _read_vectors(self, shard: _Shard) -> NDArray[np.float32]:
        data = self._read_verified(shard.file, shard.sha256)
        stored: NDArray[np.float32 | np.float16] | None = None
        try:
            # Vectors lie in a file of their own or in a column of the table.
            table = read_table(data, ["status"] if shard.vectors else ["status", EMBEDDING])
            failed = np.asarray(table["status"].to_numpy()) != OK
            if shard.vectors:
                file = shard.vectors["file"]
                stored = decode(file, self._read_verified(file, shard.vectors["sha256"]), [EMBEDDING])[EMBEDDING]
            elif EMBEDDING in table.column_names:
                stored = array(table[EMBEDDING], (self.dim,))
        except UserError:
            raise
        except Exception as error:  # Arrow's exceptions for damaged bytes are no closed set
            raise self._damaged(shard.file) from error
        # A shard of another size than the manifest says is damaged, too.
        if stored is None or stored.shape != (shard.rows, self.dim) or len(failed) != shard.rows:
            raise self._damaged(shard.file)
        # Mark failed rows, so that later steps can skip them.
        vectors: NDArray[np.float32] = np.array(stored, np.float32)
        vectors[failed] = np.nan
        return vectors

    def _read_verified(self, name: str, sha256: str) -> bytes:
        try:
            data = (self.root / name).read_bytes()
        except OSError:
            raise self._damaged(name) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._damaged(name)
        return data

    def _read_metadata(self, shard: int) -> pa.Table:
        return self.table(shard, _METADATA_COLUMNS).select(_METADATA_COLUMNS)

    def _damaged(self, name: str) -> UserError:
        return UserError(
            f"{self.root / name} is missing or not what the manifest says: run the same `zoo extract` again"
        )
