"""The index of a collection: exact search for small ones, an HNSW graph (usearch) for large ones.

``OUT/.zoo/index/index.json`` names the index file beside it and the extraction it belongs to. It is written last and
atomically, so an index is there whole or not at all. The exact index is a .npy matrix of unit vectors, float32
[rows, D], NaN where an image has no embedding. The graph is built over the same matrix, which stays on the disk
(memory-mapped): memory grows by the graph alone.

The vectors are centred: the mean of the collection's unit vectors, float64 [D] in ``mean-*.npy``, is subtracted before
they are scaled to length 1, and from a query alike. An index of an earlier version has no mean: its cosines are those
of the embeddings themselves.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NotRequired, Protocol, TypedDict, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from zoo.embeddings.shards import STATE
from zoo.errors import UserError
from zoo.numerics.similarity import ExactSearch, TopK, centred, l2_normalize, mean_direction
from zoo.search.collection import Collection
from zoo.search.intact import is_intact
from zoo.system import atomic_files
from zoo.system.json_reader import BadJson, fields, read_json, sha256, text, whole
from zoo.system.terminal import printable

FOLDER = f"{STATE}/index"  # where a reader of the folder's tables does not look
_OLD_FOLDER = "index"  # of version 0.2 and before
EXACT_BELOW = 10_000  # rows: a ResNet-50's matrix is then 80 MB, and a query takes a few milliseconds
RECALL_AT = 10
RECALL_SAMPLE = 200
_FORMAT = "siamese-zoo index 2"
_WITHOUT_MEAN = "siamese-zoo index 1"  # of earlier versions
_INDEX_FILE = re.compile(r"(exact|graph)-[0-9a-f]{16}\.(npy|usearch)")
_MEAN_FILE = re.compile(r"mean-[0-9a-f]{16}\.npy")
_OWN = ("exact-", "graph-", "mean-")  # how the names of an index's files begin
_MODEL_KEYS = ("model", "weights_sha256", "preprocessing")  # of the manifest; another model needs another index
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


class Recall(TypedDict):
    """Share (``value``) of the exact ``at`` nearest rows that the index finds, over ``sample`` rows as queries."""

    at: int
    sample: int
    value: float


class MeanFile(TypedDict):
    """Name and sha256 of the file that holds the collection's mean."""

    file: str
    sha256: str


class IndexInfo(TypedDict):
    """Content of ``index.json``; ``kind`` is ``exact`` or ``usearch``, ``left_out`` counts rows without embedding."""

    format: str
    kind: str
    file: str
    sha256: str
    dim: int
    indexed: int
    left_out: int
    recall: Recall
    manifest_sha256: str
    plan: object
    model: object
    weights_sha256: object
    preprocessing: object
    mean: NotRequired[MeanFile]  # not in format 1


@dataclass(frozen=True)
class Index:
    """An opened index.

    Attributes:
        searcher: searches it; its vectors are centred where there is a mean.
        info: its ``index.json``.
        mean: mean of the collection's unit vectors, float64 [D]; ``None`` in an index of an earlier version.
    """

    searcher: Searcher
    info: IndexInfo
    mean: NDArray[np.float64] | None = None

    @property
    def is_centred(self) -> bool:
        """Whether cosines are those of centred vectors."""
        return self.mean is not None

    def directions(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the searcher takes for embeddings [Q, D] of any length; NaN where one is zero or not finite."""
        units = l2_normalize(embeddings)
        return units if self.mean is None else centred(units, self.mean)


def build(collection: Collection, *, exact: bool | None = None) -> IndexInfo:
    """Write the index of a collection into ``OUT/.zoo/index``; an index that is there already is replaced.

    Args:
        exact: exact search or a graph; ``None`` is exact below ``EXACT_BELOW`` images.

    Returns:
        The content of ``index.json``.

    Raises:
        UserError: usearch is needed and not installed, a shard is damaged, no row has an embedding, or the disk is
            full.
    """
    # Choose the kind, and notice a missing package before any work.
    exact = len(collection) < EXACT_BELOW if exact is None else exact
    if not exact:
        _import_usearch()
    folder = collection.root / FOLDER
    atomic_files.make_folder(folder)
    # Name the files after the manifest, so that indexes do not mix.
    stem = collection.sha256[:16]
    matrix, graph, mean_file = (
        folder / name for name in (f"exact-{stem}.npy", f"graph-{stem}.usearch", f"mean-{stem}.npy")
    )
    try:
        # the index file and the mean, then index.json, which makes them valid
        mean = mean_direction(l2_normalize(vectors) for _, vectors in collection.vectors())
        indexed = _write_matrix(collection, matrix, mean)
        _write_mean(mean, mean_file)
        if exact:
            written, recall = matrix, 1.0
        else:
            written, recall = graph, _write_graph(matrix, graph)
        # Record what the index was made from, to refuse it once that changes.
        info: IndexInfo = {
            "format": _FORMAT,
            "kind": "exact" if exact else "usearch",
            "file": written.name,
            "sha256": atomic_files.sha256_file(written),
            "dim": collection.dim,
            "indexed": indexed,
            "left_out": len(collection) - indexed,
            "recall": {"at": RECALL_AT, "sample": min(RECALL_SAMPLE, indexed), "value": round(recall, 4)},
            "manifest_sha256": collection.sha256,
            "plan": collection.manifest.get("plan"),
            "model": collection.manifest.get("model"),
            "weights_sha256": collection.manifest.get("weights_sha256"),
            "preprocessing": collection.manifest.get("preprocessing"),
            "mean": {"file": mean_file.name, "sha256": atomic_files.sha256_file(mean_file)},
        }
        atomic_files.atomic_write_text(folder / "index.json", json.dumps(info, indent=2) + "\n")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is gone: another `zoo index` runs here; wait for it, then repeat") from error
    # files of an earlier extraction or of a killed run
    for path in folder.iterdir():
        if path.name not in ("index.json", written.name, mean_file.name) and path.name.startswith(_OWN):
            atomic_files.remove(path)
    _remove_old(collection.root / _OLD_FOLDER)
    return info


def open_index(collection: Collection) -> Index:
    """Open the index of a collection, memory-mapped; its file is checked against its sha256, see ``is_intact``.

    Raises:
        UserError: there is no index, it belongs to another extraction or model, or it is damaged; the message says
            to run ``zoo index``.
    """
    again = f"run `zoo index {collection.root}`"
    folder = collection.root / FOLDER
    if not (folder / "index.json").exists() and (collection.root / _OLD_FOLDER / "index.json").exists():
        folder = collection.root / _OLD_FOLDER
    # Read the small file first: it tells whether the large one fits.
    try:
        info = _check_info(read_json(folder / "index.json"))
        if info["format"] not in (_FORMAT, _WITHOUT_MEAN):
            raise UserError(f"{folder} was written by another version: {again}")
        if ("mean" in info) != (info["format"] == _FORMAT):
            raise BadJson("a mean is missing, or one too many")
        stale = info["manifest_sha256"] != collection.sha256
        path, recorded, kind = folder / info["file"], info["sha256"], info["kind"]
        model = (info["model"], info["weights_sha256"], info["preprocessing"])
    except FileNotFoundError:
        raise UserError(f"{collection.root} has no index: {again}") from None
    except (OSError, BadJson):
        raise UserError(f"{folder} is damaged: {again}") from None
    # Another model explains more than a changed manifest, so check it first.
    if model != tuple(collection.manifest.get(key) for key in _MODEL_KEYS):
        raise UserError(f"the index in {folder} was made by another model ({printable(model[0])[:100]}): {again}")
    if stale:
        raise UserError(f"{collection.root} has changed since it was indexed: {again}")
    # Check the bytes before anything trusts them.
    for file, hashed in [(path, recorded), *([(folder / m["file"], m["sha256"])] if (m := info.get("mean")) else [])]:
        try:
            intact = is_intact(file, hashed)
        except OSError:
            intact = False
        if not intact:
            raise UserError(f"{file} is missing or damaged: {again}")
    # Map the file instead of reading it into memory; a file that somebody made can have the right hash.
    damaged = UserError(f"{path} is no index of {collection.root}: {again}")
    mean = _read_mean(folder / m["file"], collection.dim, damaged) if m else None
    if kind == "exact":
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise damaged from None
        if vectors.shape != (len(collection), collection.dim) or vectors.dtype != np.float32:
            raise damaged
        return Index(ExactSearch(vectors), info, mean)
    usearch = _import_usearch()
    try:
        graph = usearch.Index.restore(str(path), view=True)
        fits = graph is not None and graph.ndim == collection.dim and len(graph) <= len(collection)
    except Exception:  # usearch's own
        fits = False
    if not fits:
        raise damaged
    return Index(HNSWSearch(graph), info, mean)


def _read_mean(path: Path, dim: int, damaged: UserError) -> NDArray[np.float64]:
    try:
        mean = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise damaged from None
    # A mean of unit vectors is no longer than 1.
    if mean.shape != (dim,) or mean.dtype != np.float64 or not np.linalg.norm(mean) <= 1 + 1e-6:
        raise damaged
    return np.array(mean)


def _check_info(value: object) -> IndexInfo:
    """Check a parsed ``index.json``. BadJson: it is none, or the file that it names is in another folder."""
    info = fields(value, *(key for key in IndexInfo.__annotations__ if key != "mean"))
    for key in ("format", "kind", "file", "manifest_sha256"):
        text(info[key])
    sha256(info["sha256"])
    for key in ("dim", "indexed", "left_out"):
        whole(info[key])
    if not _INDEX_FILE.fullmatch(text(info["file"])) or info["kind"] not in ("exact", "usearch"):
        raise BadJson("it names no index file")
    if "mean" in info:
        mean = fields(info["mean"], "file", "sha256")
        sha256(mean["sha256"])
        if not _MEAN_FILE.fullmatch(text(mean["file"])):
            raise BadJson("it names no file of a mean")
    return cast(IndexInfo, info)


def _remove_old(folder: Path) -> None:
    """Remove the index that an earlier version left; files of others stay, and so does the folder then."""
    if not (folder / "index.json").is_file():
        return
    for path in folder.iterdir():
        if path.name == "index.json" or path.name.startswith(_OWN):
            atomic_files.remove(path)
    with suppress(OSError):
        folder.rmdir()


def _write_mean(mean: NDArray[np.float64], path: Path) -> None:
    atomic_files.atomic_write(path, lambda file: np.save(file, mean.astype("<f8")))


def _write_matrix(collection: Collection, path: Path, mean: NDArray[np.float64]) -> int:
    """Write the centred unit vectors of all rows to a .npy file; return how many rows have one."""
    indexed = 0

    def write(file: BinaryIO) -> None:
        nonlocal indexed
        # The header comes first, because vectors arrive shard by shard.
        shape = (len(collection), collection.dim)
        npy.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _, vectors in collection.vectors():
            scaled = centred(l2_normalize(vectors), mean)
            indexed += int((~np.isnan(scaled[:, 0])).sum())
            file.write(scaled.astype("<f4").tobytes())
        # An empty index would only fail later.
        if not indexed:
            raise UserError(f"no image of {collection.root} has an embedding: there is nothing to index")

    atomic_files.atomic_write(path, write)
    return indexed


def _write_graph(matrix: Path, path: Path) -> float:
    """Write the graph over a .npy file of unit vectors, which it does not copy; return its recall."""
    vectors = np.load(matrix, mmap_mode="r", allow_pickle=False)
    index = _import_usearch().Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
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


def _import_usearch() -> ModuleType:
    try:
        import usearch.index
    except ImportError:
        raise UserError(
            "a collection this large needs usearch: pip install 'siamese-zoo[search]', or --exact"
        ) from None
    module: ModuleType = usearch.index
    return module
