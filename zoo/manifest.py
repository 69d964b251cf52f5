"""The last file of an extraction: what it holds, how it was made, and the hash of every part.

No time, host or absolute path stands in it: the same photographs and the same run give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from zoo.arrays import OK
from zoo.files import sha256_file
from zoo.plan import Plan
from zoo.shards import Folder, names

MAX_FAILURES = 20
_READ = ["path", "path_bytes", "sha256", "status", "error"]


@dataclass(frozen=True)
class Summary:
    """The manifest, and the first ``MAX_FAILURES`` images that failed, as (path, status, error)."""

    manifest: dict[str, Any]
    failures: tuple[tuple[str, str, str], ...]


def summarise(folder: Folder, plan: Plan, of: Iterable[int] | None = None) -> Summary:
    """Hash and count all shards of a folder, or those ``of``, one at a time. FileNotFoundError if one is missing."""
    shards = range(plan.shards) if of is None else of
    return summarise_parts(folder, plan.identity, plan.key, [names(plan, shard) for shard in shards])


def summarise_parts(folder: Folder, identity: Mapping[str, Any], key: str, parts: list[list[str]]) -> Summary:
    """``summarise`` of shards whose files have these names."""
    counts: Counter[str] = Counter()
    listed = hashlib.sha256()
    failures: list[tuple[str, str, str]] = []
    shards: list[dict[str, Any]] = []
    for table_name, *beside in parts:
        with (folder.root / table_name).open("rb") as file:
            rows = pq.ParquetFile(file).read(columns=_READ).to_pylist()
        for row in rows:
            path = row["path_bytes"] or row["path"].encode()
            listed.update(b"%b %d %b\n" % ((row["sha256"] or "-").encode(), len(path), path))
            counts[row["status"]] += 1
            if row["status"] != OK and len(failures) < MAX_FAILURES:
                failures.append((row["path"], row["status"], row["error"]))
        entry = {"file": table_name, "rows": len(rows), "sha256": sha256_file(folder.root / table_name)}
        vectors = [{"file": name, "sha256": sha256_file(folder.root / name)} for name in beside]
        if vectors:
            entry["vectors"] = vectors[0]
        if vectors[1:]:
            entry["more_vectors"] = vectors[1:]
        shards.append(entry)
    manifest = {
        **identity,
        "plan": key,
        "images": counts.total(),
        "ok": counts.pop(OK, 0),
        "failed": dict(sorted(counts.items())),
        "paths_and_sha256": listed.hexdigest(),
        "shards": shards,
    }
    return Summary(manifest, tuple(failures))


def files_of(shard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The files of a shard of a manifest, its table first: each a dict with ``file`` and ``sha256``."""
    return [shard, *([shard["vectors"]] if "vectors" in shard else []), *shard.get("more_vectors", [])]


def write(folder: Folder, summary: Summary) -> None:
    """Commit the folder: with its manifest an extraction is complete."""
    folder.commit(folder.manifest.name, (json.dumps(summary.manifest, indent=2) + "\n").encode())


def completed(folder: Folder, plan: Plan) -> Summary | None:
    """The summary of a folder that is complete and unaltered, else None."""
    if not folder.manifest.exists():
        return None
    try:
        recorded = json.loads(folder.manifest.read_bytes())
        summary = summarise(folder, plan)
    except Exception:  # a damaged or missing part: whatever it raises, the folder is not complete
        return None
    return summary if summary.manifest == recorded else None
