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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from zoo.embeddings.shards import STATE
from zoo.errors import UserError
from zoo.numerics.similarity import ExactSearch, centred, l2_normalize, mean_direction
from zoo.search.collection import Collection
from zoo.search.graph import RECALL_AT, RECALL_SAMPLE, Searcher, import_usearch, open_graph, write_graph
from zoo.search.index_info import FORMAT, WITHOUT_MEAN, IndexInfo, check_info
from zoo.search.intact import is_intact
from zoo.system import atomic_files
from zoo.system.json_reader import BadJson, read_json
from zoo.system.terminal import printable

FOLDER = f"{STATE}/index"  # where a reader of the folder's tables does not look
_OLD_FOLDER = "index"  # of version 0.2 and before
EXACT_BELOW = 10_000  # rows: a ResNet-50's matrix is then 80 MB, and a query takes a few milliseconds
_OWN = ("exact-", "graph-", "mean-")  # how the names of an index's files begin
_MODEL_KEYS = ("model", "weights_sha256", "preprocessing")  # of the manifest; another model needs another index


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
        import_usearch()
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
            written, recall = graph, write_graph(matrix, graph)
        # Record what the index was made from, to refuse it once that changes.
        info: IndexInfo = {
            "format": FORMAT,
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
        info = check_info(read_json(folder / "index.json"))
        if info["format"] not in (FORMAT, WITHOUT_MEAN):
            raise UserError(f"{folder} was written by another version: {again}")
        if ("mean" in info) != (info["format"] == FORMAT):
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
    graph = open_graph(path, collection.dim, len(collection))
    if graph is None:
        raise damaged
    return Index(graph, info, mean)


def _read_mean(path: Path, dim: int, damaged: UserError) -> NDArray[np.float64]:
    try:
        mean = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise damaged from None
    # A mean of unit vectors is no longer than 1.
    if mean.shape != (dim,) or mean.dtype != np.float64 or not np.linalg.norm(mean) <= 1 + 1e-6:
        raise damaged
    return np.array(mean)


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
