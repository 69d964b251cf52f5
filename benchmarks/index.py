"""Build and query times of ``zoo index`` and ``zoo search``'s index, and their memory, for made vectors.

    python benchmarks/index.py 10000 1000000 --json benchmarks/results/index.json

The vectors are drawn around 100 centres (seed 0), in shards of 4096. Each step is a process of its own. ``build`` is
``zoo index``; ``open`` imports what a search needs and opens the index, the first time and again; ``query`` is one
query at a time (median of 100). Exact search is measured too, with ``--exact`` for each number of vectors. The JSON
keeps what it has of other numbers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cpu import facts
from memory import peak
from numpy.typing import NDArray

_SHARD, _QUERIES, _NEIGHBOURS = 4096, 100, 10
_CENTRES = 100


def vectors_of(shard: int, rows: int, dim: int) -> NDArray[np.float32]:
    """Return the vectors [rows, dim] of a shard."""
    centres = np.random.default_rng(0).normal(size=(_CENTRES, dim))
    draws = np.random.default_rng([1, shard])
    return (centres[draws.integers(0, _CENTRES, rows)] + draws.normal(size=(rows, dim))).astype(np.float32)


def make(root: Path, rows: int, dim: int) -> None:
    """Write an extraction of made vectors, by the project's own code."""
    import pyarrow as pa

    from zoo.embeddings import manifest
    from zoo.embeddings.fingerprint import Fingerprint
    from zoo.embeddings.plan import Plan
    from zoo.embeddings.shards import OutputFolder, Rows
    from zoo.sources.file_listing import FILES

    told = {"model": "made", "dim": dim, "format": "parquet", "dtype": "float32", "shard_size": _SHARD, "batch_size": 1}
    told |= {"weights_sha256": "0" * 64, "preprocessing": {"input_size": 32, "resize": 36}}
    files = pa.table([[b"%08d.jpg" % row for row in range(rows)], [1] * rows, [1] * rows], schema=FILES)
    plan, folder = Plan.new(Fingerprint.from_json(told), files), OutputFolder(root)
    folder.create()
    for shard in range(plan.shards):
        filled, n = Rows.empty(plan, shard), len(plan.rows(shard))
        filled.vectors["embedding"][:] = vectors_of(shard, n, dim)
        filled.status[:], filled.sha256[:] = ["ok"] * n, ["0" * 64] * n
        folder.write(plan, shard, filled)
    manifest.write(folder, manifest.summarise(folder, plan))


def build(root: Path, exact: bool) -> dict[str, Any]:
    """Build the index; return its kind, recall and size."""
    from zoo.search.collection import Collection
    from zoo.search.index import FOLDER
    from zoo.search.index import build as build_index

    info = build_index(Collection(root), exact=exact)
    sizes = sum(path.stat().st_size for path in (root / FOLDER).iterdir())
    return {"kind": info["kind"], "recall": info["recall"]["value"], "bytes": sizes}


def query(root: Path, dim: int) -> dict[str, Any]:
    """Open the index and search it, one query at a time."""
    started = time.perf_counter()
    from zoo.search.collection import Collection
    from zoo.search.index import open_index

    imported = time.perf_counter()
    index = open_index(Collection(root))
    opened = time.perf_counter()
    seconds = []
    for vector in vectors_of(0, _QUERIES, dim):
        one = time.perf_counter()
        index.searcher.search(index.directions(vector[None]), _NEIGHBOURS)
        seconds.append(time.perf_counter() - one)
    loaded = sorted({"torch", "timm", "transformers"} & set(sys.modules))
    return {
        "import_seconds": round(imported - started, 3),
        "open_seconds": round(opened - imported, 3),
        "query_ms": round(1000 * float(np.median(seconds)), 3),
        "loaded": loaded,
    }


def step(*words: object) -> dict[str, Any]:
    """Run one step in a process of its own; return what it found, its peak memory and seconds."""
    started = time.monotonic()
    command = [sys.executable, __file__, "--step", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": round(time.monotonic() - started, 1)}


def kept(file: Path | None, rows: list[int], dim: int) -> list[dict[str, Any]]:
    """Return what a file of earlier runs has of other numbers of vectors."""
    if file is None or not file.exists():
        return []
    earlier: list[dict[str, Any]] = json.loads(file.read_text())["indexes"]
    return [one for one in earlier if one["rows"] not in rows and one["dim"] == dim]


def main() -> None:
    """Measure, print a table, write JSON after each index."""
    if sys.argv[1:2] == ["--step"]:
        name, root, rows, dim = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
        found: dict[str, Any] = {}
        if name == "make":
            make(root, rows, dim)
        else:
            found = query(root, dim) if name == "query" else build(root, name == "exact")
        print(json.dumps({**found, "peak_bytes": peak()}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+", help="numbers of vectors")
    parser.add_argument("--dim", type=int, default=512, help="length of a vector; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the measurements there")
    arguments = parser.parse_args()
    command = " ".join(["benchmarks/index.py", *sys.argv[1:]])
    measured = kept(arguments.json, arguments.rows, arguments.dim)
    print(
        f"{'rows':>9} {'index':>8} {'build s':>8} {'GB':>6} {'recall':>7} {'open s':>7} {'again s':>8} {'query ms':>9}"
    )
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as text:
            root = Path(text) / "out"
            step("make", root, rows, arguments.dim)
            for name in ("exact", "graph"):
                built = step(name, root, rows, arguments.dim)
                time.sleep(2.5)  # a file that is younger is hashed at each start
                first, again = step("query", root, rows, arguments.dim), step("query", root, rows, arguments.dim)
                measured.append({"rows": rows, "dim": arguments.dim, "build": built, "first": first, "again": again})
                measured.sort(key=lambda one: (one["rows"], one["build"]["kind"]))
                print(
                    f"{rows:9d}{built['kind']:>9}{built['seconds']:9.1f}{built['peak_bytes'] / 1e9:9.2f}"
                    f"{built['recall']:9.4f}{first['open_seconds']:9.2f}{again['open_seconds']:9.3f}"
                    f"{again['query_ms']:9.2f}",
                    flush=True,
                )
                if arguments.json:
                    contents = {"command": command, "machine": facts(), "indexes": measured}
                    arguments.json.write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
