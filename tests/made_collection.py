"""Finished extractions with given embeddings, written by the project's own code without images or a network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo.embeddings import manifest
from zoo.embeddings.columns import OK
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import OutputFolder, Rows
from zoo.extraction import near_duplicates
from zoo.search.collection import Collection
from zoo.sources.file_listing import FILES


def make(
    root: Path,
    vectors: NDArray[np.float32],
    *,
    failed: tuple[int, ...] = (),
    paths: list[bytes] | None = None,
    shard_size: int = 1024,
    format: str = "parquet",
    frozen: bool = False,
    kept: pa.Table | None = None,
    **identity: Any,
) -> Collection:
    """Write ``vectors`` [N, D] as an extraction into ``root``; the rows ``failed`` have no embedding.

    ``frozen`` keeps the plan in the folder, as an extraction does; ``dedupe`` writes near duplicates; ``kept`` are
    columns of the source [N] that the result carries.
    """
    paths = paths or [b"%07d.jpg" % n for n in range(len(vectors))]
    told = {
        "model": "made",
        "dim": vectors.shape[1],
        "format": format,
        "dtype": str(vectors.dtype),
        "shard_size": shard_size,
        "batch_size": 1,
    }
    told |= {"weights_sha256": "0" * 64, "preprocessing": {"input_size": 32, "resize": 36}, **identity}
    table = pa.table([paths, [1] * len(paths), [1] * len(paths)], schema=FILES)
    if kept is not None:
        told |= {"keep": kept.column_names}
        for field in kept.schema:
            table = table.append_column(field, kept[field.name])
    nothing = pa.nulls(len(paths))
    copies = pa.table({"zoo.copy_of": pa.array([-1] * len(paths), pa.int64()), "zoo.sha256": nothing.cast(pa.string()),
                       "zoo.width": nothing.cast(pa.int32()), "zoo.height": nothing.cast(pa.int32())})  # fmt: skip
    fingerprint, folder = Fingerprint.from_json(told), OutputFolder(root)
    plan = Plan.new(fingerprint, table, copies if fingerprint.dedupe else None)
    folder.create()
    if frozen:
        plan.save(folder.plan, folder.scratch)
    for shard in range(plan.shards):
        rows, planned = Rows.empty(plan, shard), plan.rows(shard)
        for slot, row in enumerate(planned):
            rows.status[slot] = "truncated" if row in failed else OK
            if row in failed:
                rows.error[slot] = "cut"
                continue
            rows.vectors["embedding"][slot] = vectors[row]
            rows.sha256[slot] = hashlib.sha256(paths[row]).hexdigest()
            rows.width[slot] = rows.height[slot] = 8
        folder.write(plan, shard, rows)
    if fingerprint.dedupe:
        near_duplicates.write(folder, plan)
    manifest.write(folder, manifest.summarise(folder, plan))
    return Collection(root)


def clusters(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Return float32 [count, dim]: points around 100 centres, as embeddings of photographs are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(100, dim))
    return (centres[rng.integers(0, 100, count)] + rng.normal(size=(count, dim))).astype(np.float32)
