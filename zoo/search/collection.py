"""A finished extraction as a collection of rows: what each image is called, and its vector.

Row numbers are the extraction's: image i of the plan is row i. Nothing is held but what a few shards say of their
images, so a collection of a million is opened as fast as one of ten.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo.embeddings.columns import OK, array, decode
from zoo.embeddings.shards import STATE
from zoo.errors import UserError
from zoo.inference.outputs import EMBEDDING
from zoo.system.parquet import read_table

MANIFEST = "manifest.json"
_PLAN = b"zoo.plan"
_TOLD = ["path", "path_bytes", "sha256", "status", "error"]
_SHARDS_KEPT = 16  # of what is told of their images, about 150 bytes for each


@dataclass(frozen=True)
class Item:
    """One image of a collection.

    Attributes:
        row: its number.
        path: relative to the folder of images, raw bytes.
        sha256: of the file; ``None`` where it could not be read.
        status, error: ``ok``, or why there is no vector.
    """

    row: int
    path: bytes
    sha256: str | None
    status: str
    error: str | None

    @property
    def name(self) -> str:
        """The path to show: bytes that are not UTF-8 are escaped."""
        return self.path.decode(errors="backslashreplace")


class Collection:
    """The folder OUT of ``zoo extract``, complete.

    Attributes:
        root: the folder.
        manifest: what ``zoo.embeddings.manifest`` wrote.
        sha256: of the manifest's bytes, and so of all it names: it changes with everything that matters.

    Raises:
        UserError: not a finished extraction.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / STATE
        try:
            data = (root / MANIFEST).read_bytes()
            self.manifest: dict[str, Any] = json.loads(data)
            self._shards = [
                (_plain(s["file"]), int(s["rows"]), s["sha256"], s.get("vectors")) for s in self.manifest["shards"]
            ]
            self.plan, self.dim = str(self.manifest["plan"]), int(self.manifest["dim"])
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{root} is no finished extraction: run `zoo extract --out {root}` to its end") from None
        except OSError as error:
            raise UserError(f"{root / MANIFEST} cannot be read ({error.strerror}): allow reading it") from error
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{root / MANIFEST} is damaged: run the same `zoo extract` again") from None
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._ends = list(accumulate(rows for _, rows, _, _ in self._shards))
        self._told = lru_cache(_SHARDS_KEPT)(self._read_told)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def model(self) -> str:
        """The name of the model that made it."""
        return str(self.manifest["model"])

    def item(self, row: int) -> Item:
        """One image. IndexError for a row that is not there. UserError: its shard is missing or damaged."""
        return self.items(row, 1)[0] if 0 <= row < len(self) else _no_row(row)

    def items(self, start: int, count: int) -> list[Item]:
        """The images from row ``start``, at most ``count``; fewer at the end."""
        found: list[Item] = []
        stop = min(start + count, len(self))
        while start < stop:
            shard = bisect_right(self._ends, start)
            first = self._ends[shard] - self._shards[shard][1]
            told = self._told(shard).slice(start - first, stop - start).to_pylist()
            found += [
                Item(row, t["path_bytes"] or t["path"].encode(), t["sha256"], t["status"], t["error"])
                for row, t in enumerate(told, start)
            ]
            start = self._ends[shard]
        return found

    def vectors(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Shard after shard: its first row, and its vectors as float32 [rows, D], NaN where an image failed.

        Raises:
            UserError: a shard that is missing or does not have the hash of the manifest.
        """
        for shard, end in enumerate(self._ends):
            rows = self._shards[shard][1]
            yield end - rows, self._read_vectors(shard)

    def _read_vectors(self, shard: int) -> NDArray[np.float32]:
        name, rows, sha256, vectors = self._shards[shard]
        data = self._bytes(name, sha256)
        found: NDArray[Any] | None = None
        try:
            table = read_table(data, ["status"] if vectors else ["status", EMBEDDING])
            failed = np.asarray(table["status"].to_numpy()) != OK
            if vectors:
                file = _plain(vectors["file"])
                found = decode(file, self._bytes(file, vectors["sha256"]), [EMBEDDING])[EMBEDDING]
            elif EMBEDDING in table.column_names:
                found = array(table[EMBEDDING], (self.dim,))
        except UserError:
            raise
        except Exception as error:  # what Arrow raises for odd bytes is not a closed set
            raise self._damaged(name) from error
        if found is None:
            raise self._damaged(name)
        if found.shape != (rows, self.dim) or len(failed) != rows:
            raise self._damaged(name)
        single: NDArray[np.float32] = np.array(found, np.float32)
        single[failed] = np.nan
        return single

    def _bytes(self, name: str, sha256: str) -> bytes:
        try:
            data = (self.root / name).read_bytes()
        except OSError:
            raise self._damaged(name) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._damaged(name)
        return data

    def _read_told(self, shard: int) -> pa.Table:
        name, rows, _, _ = self._shards[shard]
        try:
            told = read_table(self.root / name, _TOLD)
            plan = (told.schema.metadata or {}).get(_PLAN, b"").decode()
        except Exception as error:  # as above
            raise self._damaged(name) from error
        if plan != self.plan or len(told) != rows:
            raise self._damaged(name)
        return told

    def _damaged(self, name: str) -> UserError:
        return UserError(
            f"{self.root / name} is missing or not what the manifest says: run the same `zoo extract` again"
        )


def _plain(name: str) -> str:
    """A file's name. ValueError for one that would lead out of its folder."""
    if name != Path(name).name or name in ("", ".."):
        raise ValueError(name)
    return name


def _no_row(row: int) -> Item:
    raise IndexError(row)
