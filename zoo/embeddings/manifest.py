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

from zoo.embeddings.columns import OK
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DUPLICATE, Folder, names
from zoo.inference.outputs import NEAR_DUPLICATES
from zoo.system.atomic_files import sha256_file
from zoo.system.parquet import read_table

MAX_FAILURES = 20
_READ = ["path", "path_bytes", "sha256", "status", "error"]


@dataclass(frozen=True)
class Summary:
    """The manifest, and the first ``MAX_FAILURES`` images that failed, as (path, status, error)."""

    manifest: dict[str, Any]
    failures: tuple[tuple[str, str, str], ...]


def summarise(folder: Folder, plan: Plan, of: Iterable[int] | None = None) -> Summary:
    """Hash and count all shards of a folder, or those ``of``, one at a time. FileNotFoundError if one is missing."""
    parts = [names(plan, shard) for shard in (range(plan.shards) if of is None else of)]
    return summarise_parts(folder, plan.identity, plan.key, parts, complete=of is None)


def summarise_parts(
    folder: Folder, identity: Mapping[str, Any], key: str, parts: list[list[str]], *, complete: bool = True
) -> Summary:
    """``summarise`` of shards whose files have these names; of a complete folder its near duplicates are there, too."""
    counts: Counter[str] = Counter()
    listed = hashlib.sha256()
    failures: list[tuple[str, str, str]] = []
    shards: list[dict[str, Any]] = []
    for table_name, *beside in parts:
        rows = read_table(folder.root / table_name, _READ).to_pylist()
        for row in rows:
            path = row["path_bytes"] or row["path"].encode()
            listed.update(b"%b %d %b\n" % ((row["sha256"] or "-").encode(), len(path), path))
            counts[row["status"]] += 1
            if row["status"] not in (OK, DUPLICATE) and len(failures) < MAX_FAILURES:
                failures.append((row["path"], row["status"], row["error"]))
        entry = {"file": table_name, "rows": len(rows), "sha256": sha256_file(folder.root / table_name)}
        vectors = [{"file": name, "sha256": sha256_file(folder.root / name)} for name in beside]
        if vectors:
            entry["vectors"] = vectors[0]
        if vectors[1:]:
            entry["more_vectors"] = vectors[1:]
        shards.append(entry)
    dedupe = "dedupe" in identity
    manifest = {
        **identity,
        "plan": key,
        "images": counts.total(),
        "ok": counts.pop(OK, 0),
        **({"duplicates": counts.pop(DUPLICATE, 0)} if dedupe else {}),
        **({"near_duplicates": _near_duplicates(folder)} if dedupe and complete else {}),
        "failed": dict(sorted(counts.items())),
        "paths_and_sha256": listed.hexdigest(),
        "shards": shards,
    }
    return Summary(manifest, tuple(failures))


def _near_duplicates(folder: Folder) -> dict[str, Any]:
    path = folder.root / NEAR_DUPLICATES
    return {"file": path.name, "pairs": pq.read_metadata(path).num_rows, "sha256": sha256_file(path)}


def files_of(shard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The files of a shard of a manifest, its table first: each a dict with ``file`` and ``sha256``."""
    return [shard, *([shard["vectors"]] if "vectors" in shard else []), *shard.get("more_vectors", [])]


def write(folder: Folder, summary: Summary) -> None:
    """Commit the folder: with its manifest an extraction is complete."""
    text = json.dumps(summary.manifest, indent=2) + "\n"
    folder.commit(folder.manifest.name, lambda file: file.write(text.encode()))


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
