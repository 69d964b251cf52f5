"""The graph of a large collection (HNSW, by usearch): write it, search it, and measure what it misses."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.numerics.similarity import ExactSearch, TopK
from zoo.system import atomic_files

RECALL_AT = 10
RECALL_SAMPLE = 200
_ROWS_PER_ADD = 8192
_EXPANSION = 256  # candidates per query in the graph; usearch's default is 64


class Searcher(Protocol):
    """Nearest-neighbour search over the rows of a collection."""

    def search(self, queries: NDArray[np.float32], k: int) -> list[TopK]:
        """Find the nearest rows of unit vectors float32 [Q, D]: for each at most ``k``, nearest first."""

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Return the unit vector [D] of a row; ``None`` if it has no embedding."""


class HNSWSearch:
    """Approximate search in a ``usearch.index.Index`` whose keys are row numbers."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def search(self, queries: NDArray[np.float32], k: int) -> list[TopK]:
        k = min(k, len(self._index))
        if k == 0:
            return [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        self._index.expansion_search = max(_EXPANSION, 2 * k)
        results = self._top_k(queries, k)
        if min(len(rows) for rows, _ in results) < k:  # some rows of a graph may be unreachable
            results = self._top_k(queries, k, exact=True)
        return results

    def _top_k(self, queries: NDArray[np.float32], k: int, *, exact: bool = False) -> list[TopK]:
        matches = self._index.search(queries, k, threads=1, exact=exact)
        keys, distances = np.atleast_2d(matches.keys), np.atleast_2d(matches.distances)
        # a single query gives usearch's ``Matches``, which has no counts
        counts = matches.counts if hasattr(matches, "counts") else [keys.shape[1]]
        return [
            (key[:n].astype(np.int64), (1 - distance[:n]).astype(np.float32))
            for key, distance, n in zip(keys, distances, counts, strict=True)
        ]

    def vector(self, row: int) -> NDArray[np.float32] | None:
        return None if row not in self._index else np.array(self._index.get(row), np.float32).reshape(-1)


def write_graph(matrix: Path, path: Path) -> float:
    """Write the graph over a .npy file of unit vectors, which it does not copy; return its recall."""
    vectors = np.load(matrix, mmap_mode="r", allow_pickle=False)
    index = import_usearch().Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    # Leave out rows without an embedding.
    for start in range(0, len(vectors), _ROWS_PER_ADD):
        block = vectors[start : start + _ROWS_PER_ADD]
        for rows in _true_runs(~np.isnan(block[:, 0])):
            index.add(np.arange(start + rows.start, start + rows.stop, dtype=np.uint64), block[rows], copy=False)

    def write(file: BinaryIO) -> None:
        try:
            index.save(file.name)
        except Exception as error:  # usearch's own, which gives no reason
            raise UserError(f"cannot write {path} ({error}): is the disk full? free space and repeat") from error

    # Measure the recall before the graph counts as finished.
    recall = _recall(HNSWSearch(index), vectors)
    atomic_files.atomic_write(path, write)
    return recall


def _true_runs(mask: NDArray[np.bool_]) -> list[slice]:
    """Return the runs of True as slices: a slice of a memory-mapped array is no copy, a boolean index would be."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _recall(graph: Searcher, vectors: NDArray[np.float32]) -> float:
    """Recall@``RECALL_AT`` with rows of the collection as queries; that each one finds itself is not counted."""
    exact = ExactSearch(vectors)
    # Draw a fixed sample, with spares for rows that have no embedding.
    shuffled = np.random.Generator(np.random.Philox(key=0)).permutation(len(vectors))
    rows = [row for row in shuffled[: 4 * RECALL_SAMPLE].tolist() if exact.vector(row) is not None][:RECALL_SAMPLE]
    if not rows:
        return float("nan")
    # Compare the graph's neighbours with the exact ones.
    queries = np.stack([vectors[row] for row in rows])
    hits = wanted = 0
    truth, found = exact.search(queries, RECALL_AT + 1), graph.search(queries, RECALL_AT + 1)
    for row, (true_rows, _), (found_rows, _) in zip(rows, truth, found, strict=True):
        neighbours = set(true_rows.tolist()) - {row}
        hits += len(neighbours & set(found_rows.tolist()))
        wanted += len(neighbours)
    return hits / wanted if wanted else 1.0


def open_graph(path: Path, dim: int, rows: int) -> HNSWSearch | None:
    """Map a graph of vectors [at most ``rows``, ``dim``]; ``None`` if the file holds none of such vectors.

    Raises:
        UserError: usearch is not installed.
    """
    usearch = import_usearch()
    try:
        graph = usearch.Index.restore(str(path), view=True)
        fits = graph is not None and graph.ndim == dim and len(graph) <= rows
    except Exception:  # usearch's own
        return None
    return HNSWSearch(graph) if fits else None


def import_usearch() -> ModuleType:
    """Return the module ``usearch.index``. Raises UserError where it is not installed."""
    try:
        import usearch.index
    except ImportError:
        raise UserError(
            "a collection this large needs usearch: pip install 'siamese-zoo[search]', or --exact"
        ) from None
    module: ModuleType = usearch.index
    return module
