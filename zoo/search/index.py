"""An index over a collection: exact for small ones, an HNSW graph (usearch) for large ones.

``OUT/index/index.json`` says which file beside it is the index and of which extraction; it is written last, and
atomically, so that an index is there whole or not. The exact index is a matrix of unit vectors, float32 [rows, D],
NaN where an image has none; the graph is built over the same matrix, mapped from the disk: memory grows by the
graph alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.numerics.similarity import ExactSearch, Found, l2_normalize
from zoo.search.collection import Collection
from zoo.system import atomic_files

FOLDER = "index"
EXACT_BELOW = 10_000  # rows: the matrix of a ResNet-50 is then 80 MB, and a query a few milliseconds
RECALL_AT = 10
RECALL_SAMPLE = 200
_FORMAT = "siamese-zoo index 1"
_BLOCK_BYTES = 32 * 1024 * 1024
_ADDED_AT_ONCE = 8192
_EXPANSION = 256  # candidates of a search in the graph; usearch's own default is 64


class Neighbours(Protocol):
    """Finds the nearest rows."""

    def search(self, queries: NDArray[np.float32], k: int) -> list[Found]:
        """Unit vectors float32 [Q, D] -> for each its nearest rows and their cosines, at most ``k``, nearest first."""

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """The unit vector [D] of a row; ``None`` where it has none."""


class Graph:
    """Approximate search in a usearch index; its keys are row numbers."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def search(self, queries: NDArray[np.float32], k: int) -> list[Found]:
        k = min(k, len(self._index))
        if k == 0:
            return [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        self._index.expansion_search = max(_EXPANSION, 2 * k)
        found = self._found(queries, k)
        if min(len(rows) for rows, _ in found) < k:  # a graph may hold rows to which no path leads
            found = self._found(queries, k, exact=True)
        return found

    def _found(self, queries: NDArray[np.float32], k: int, *, exact: bool = False) -> list[Found]:
        found = self._index.search(queries, k, threads=1, exact=exact)
        keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        counts = found.counts if hasattr(found, "counts") else [keys.shape[1]]  # one query gives a plain match
        return [
            (key[:n].astype(np.int64), (1 - distance[:n]).astype(np.float32))
            for key, distance, n in zip(keys, distances, counts, strict=True)
        ]

    def vector(self, row: int) -> NDArray[np.float32] | None:
        return None if row not in self._index else np.array(self._index.get(row), np.float32).reshape(-1)


@dataclass(frozen=True)
class Index:
    """An opened index.

    Attributes:
        neighbours: what searches.
        told: what ``index.json`` says.
    """

    neighbours: Neighbours
    told: dict[str, Any]


def build(collection: Collection, *, exact: bool | None = None) -> dict[str, Any]:
    """Writes the index of a collection into ``OUT/index``; one that is there already is replaced.

    Args:
        exact: ``None`` is exact below ``EXACT_BELOW`` images and a graph from there on.

    Returns:
        What ``index.json`` says: kind, how many rows are in it, how many were left out, and the recall: the share of
        the exact ``RECALL_AT`` nearest that are found, over ``RECALL_SAMPLE`` rows of the collection.

    Raises:
        UserError: usearch is needed and not installed, a shard is damaged, no row has a vector, or a full disk.
    """
    exact = len(collection) < EXACT_BELOW if exact is None else exact
    if not exact:
        _usearch()
    folder = collection.root / FOLDER
    atomic_files.make_folder(folder)
    stem = collection.sha256[:16]
    matrix, graph = folder / f"exact-{stem}.npy", folder / f"graph-{stem}.usearch"
    try:
        indexed = _write_matrix(collection, matrix)
        if exact:
            written, recall = matrix, 1.0
        else:
            written, recall = graph, _write_graph(matrix, graph)
        told = {
            "format": _FORMAT,
            "kind": "exact" if exact else "usearch",
            "file": written.name,
            "sha256": atomic_files.sha256_file(written),
            "dim": collection.dim,
            "indexed": indexed,
            "left_out": len(collection) - indexed,
            "recall": {"at": RECALL_AT, "sample": min(RECALL_SAMPLE, indexed), "value": round(recall, 4)},
            "manifest_sha256": collection.sha256,
            **{key: collection.manifest.get(key) for key in ("plan", "model", "weights_sha256", "preprocessing")},
        }
        atomic_files.atomic_write_text(folder / "index.json", json.dumps(told, indent=2) + "\n")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is gone: another `zoo index` runs here; wait for it, then repeat") from error
    for path in folder.iterdir():
        if path.name not in ("index.json", written.name) and path.name.startswith(("exact-", "graph-")):
            atomic_files.remove(path)  # of an earlier extraction, or what a killed run left
    return told


def open_index(collection: Collection) -> Index:
    """The index of a collection, every byte of it checked.

    Raises:
        UserError: there is none, it is of another extraction, or damaged; all of them say to run ``zoo index``.
    """
    again = f"run `zoo index {collection.root}`"
    folder = collection.root / FOLDER
    try:
        told = json.loads((folder / "index.json").read_bytes())
        if told["format"] != _FORMAT:
            raise UserError(f"{folder} was written by another version: {again}")
        stale = told["manifest_sha256"] != collection.sha256
        path, sha256, kind = folder / Path(told["file"]).name, told["sha256"], told["kind"]
        was = (told["model"], told["weights_sha256"], told["preprocessing"])
    except FileNotFoundError:
        raise UserError(f"{collection.root} has no index: {again}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is damaged: {again}") from None
    if was != tuple(collection.manifest.get(key) for key in ("model", "weights_sha256", "preprocessing")):
        raise UserError(f"the index in {folder} was made by another model ({was[0]}): {again}")
    if stale:
        raise UserError(f"{collection.root} has changed since it was indexed: {again}")
    try:
        intact = atomic_files.sha256_file(path) == sha256
    except OSError:
        intact = False
    if not intact:
        raise UserError(f"{path} is missing or damaged: {again}")
    if kind == "exact":
        return Index(ExactSearch(np.load(path, mmap_mode="r", allow_pickle=False)), told)
    return Index(Graph(_usearch().Index.restore(str(path), view=True)), told)


def _write_matrix(collection: Collection, path: Path) -> int:
    """Unit vectors of all rows to a .npy file; returns how many have one."""
    indexed = 0

    def write(file: BinaryIO) -> None:
        nonlocal indexed
        shape = (len(collection), collection.dim)
        npy.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _, vectors in collection.vectors():
            scaled = l2_normalize(vectors)
            indexed += int((~np.isnan(scaled[:, 0])).sum())
            file.write(scaled.astype("<f4").tobytes())
        if not indexed:
            raise UserError(f"no image of {collection.root} has an embedding: there is nothing to index")

    atomic_files.atomic_write(path, write)
    return indexed


def _write_graph(matrix: Path, path: Path) -> float:
    """The graph over a file of unit vectors, which it does not copy; returns its recall."""
    vectors = np.load(matrix, mmap_mode="r", allow_pickle=False)
    index = _usearch().Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    for start in range(0, len(vectors), _ADDED_AT_ONCE):
        block = vectors[start : start + _ADDED_AT_ONCE]
        for rows in _runs(~np.isnan(block[:, 0])):
            index.add(np.arange(start + rows.start, start + rows.stop, dtype=np.uint64), block[rows], copy=False)

    def write(file: BinaryIO) -> None:
        try:
            index.save(file.name)
        except Exception as error:  # usearch's own, which does not say why
            raise UserError(f"cannot write {path} ({error}): is the disk full? free space and repeat") from error

    recall = _recall(Graph(index), ExactSearch(vectors))
    atomic_files.atomic_write(path, write)
    return recall


def _runs(has_vector: NDArray[np.bool_]) -> list[slice]:
    """Stretches of True: a slice of a mapped file is not a copy, a selection would be."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], has_vector, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _recall(graph: Neighbours, exact: ExactSearch) -> float:
    """Over rows of the collection as queries; each finds itself, so that is not counted."""
    drawn = np.random.Generator(np.random.Philox(key=0)).permutation(len(exact._vectors))
    rows = [row for row in drawn[: 4 * RECALL_SAMPLE].tolist() if exact.vector(row) is not None][:RECALL_SAMPLE]
    if not rows:
        return float("nan")
    queries = np.stack([exact._vectors[row] for row in rows])
    hits = wanted = 0
    truth, found = exact.search(queries, RECALL_AT + 1), graph.search(queries, RECALL_AT + 1)
    for row, (right, _), (got, _) in zip(rows, truth, found, strict=True):
        others = set(right.tolist()) - {row}
        hits += len(others & set(got.tolist()))
        wanted += len(others)
    return hits / wanted if wanted else 1.0


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise UserError(
            "a collection this large needs usearch: pip install 'siamese-zoo[search]', or --exact"
        ) from None
    return usearch.index
