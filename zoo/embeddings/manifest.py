"""The manifest, the last file of an extraction: what the result holds, how it was made, and the hash of every part.

It has no time, host or absolute path: the same images and the same run give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import pyarrow.parquet as pq

from zoo.embeddings.columns import NOTES_BETWEEN, OK
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DUPLICATE, OutputFolder, names
from zoo.inference.outputs import NEAR_DUPLICATES
from zoo.system.atomic_files import sha256_file
from zoo.system.json_types import JSON
from zoo.system.parquet import read_table

MAX_FAILURES = 20
NOTES, LEFT_OUT = "notes", "left_out"
"""Keys of the result that are there where there is something to say: the numbers of images with an embedding by the
note in their column ``error``, and of files that are no rows by extension. Shards cannot tell the second."""
_READ = ["path", "path_bytes", "sha256", "status", "error"]

Manifest: TypeAlias = dict[str, Any]
"""The JSON object of ``manifest.json``: a fingerprint's, then counts and ``shards``."""


class HashedFile(NamedTuple):
    """A file of a shard, as a manifest names it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Summary:
    """The manifest, and the first ``MAX_FAILURES`` images that failed, as (path, status, error)."""

    manifest: Manifest
    failures: tuple[tuple[str, str, str], ...]


def summarise(folder: OutputFolder, plan: Plan, shards: Iterable[int] | None = None) -> Summary:
    """Hash and count the shards of a folder, one at a time.

    Args:
        shards: their numbers; ``None`` is all of them.

    Raises:
        FileNotFoundError: a shard is missing.
    """
    parts = [names(plan, shard) for shard in (range(plan.shards) if shards is None else shards)]
    fingerprint = json.loads(plan.fingerprint.canonical())  # with sorted keys, as it always stands in a manifest
    return summarise_parts(folder, fingerprint, plan.key, parts, complete=shards is None)


def summarise_parts(
    folder: OutputFolder,
    fingerprint: Mapping[str, JSON],
    key: str,
    parts: Sequence[Sequence[str]],
    *,
    complete: bool = True,
) -> Summary:
    """Hash and count shards by the names of their files.

    Args:
        fingerprint: the JSON object of a ``Fingerprint``.
        key: of the plan.
        parts: for each shard the name of its table, then those of the files beside it.
        complete: all shards are there, and so are the near duplicates.
    """
    counts: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    listed = hashlib.sha256()
    failures: list[tuple[str, str, str]] = []
    shards: list[Manifest] = []
    # Count each shard's rows, and hash what they name, one table at a time.
    for table_name, *beside in parts:
        rows = read_table(folder.root / table_name, _READ).to_pylist()
        for row in rows:
            path = row["path_bytes"] or row["path"].encode()
            listed.update(b"%b %d %b\n" % ((row["sha256"] or "-").encode(), len(path), path))
            counts[row["status"]] += 1
            if row["status"] == OK and row["error"]:
                notes.update(note.partition(":")[0] for note in row["error"].split(NOTES_BETWEEN))
            if row["status"] not in (OK, DUPLICATE) and len(failures) < MAX_FAILURES:
                failures.append((row["path"], row["status"], row["error"]))
        # Record the files of the shard with their hashes.
        entry = {"file": table_name, "rows": len(rows), "sha256": sha256_file(folder.root / table_name)}
        vectors = [{"file": name, "sha256": sha256_file(folder.root / name)} for name in beside]
        if vectors:
            entry["vectors"] = vectors[0]
        if vectors[1:]:
            entry["more_vectors"] = vectors[1:]
        shards.append(entry)
    dedupe = "dedupe" in fingerprint
    # Only an extraction that looked for duplicates states their numbers.
    manifest = {
        **fingerprint,
        "plan": key,
        "images": counts.total(),
        "ok": counts.pop(OK, 0),
        **({"duplicates": counts.pop(DUPLICATE, 0)} if dedupe else {}),
        **({"near_duplicates": _near_duplicates(folder)} if dedupe and complete else {}),
        "failed": dict(sorted(counts.items())),
        **({NOTES: dict(sorted(notes.items()))} if notes else {}),
        "paths_and_sha256": listed.hexdigest(),
        "shards": shards,
    }
    return Summary(manifest, tuple(failures))


def _near_duplicates(folder: OutputFolder) -> Manifest:
    path = folder.root / NEAR_DUPLICATES
    return {"file": path.name, "pairs": pq.read_metadata(path).num_rows, "sha256": sha256_file(path)}


def files_of(shard: Manifest) -> list[HashedFile]:
    """Return the files of an entry of a manifest's ``shards``, its table first."""
    entries = [shard, *([shard["vectors"]] if "vectors" in shard else []), *shard.get("more_vectors", [])]
    return [HashedFile(entry["file"], entry.get("sha256")) for entry in entries]


def write(folder: OutputFolder, summary: Summary, left_out: Mapping[str, int] | None = None) -> None:
    """Commit the folder: with its manifest an extraction is complete.

    Args:
        left_out: numbers of files that are no rows, by extension.
    """
    text = json.dumps({**summary.manifest, **({LEFT_OUT: dict(left_out)} if left_out else {})}, indent=2) + "\n"
    folder.commit(folder.manifest.name, lambda file: file.write(text.encode()))


def completed(folder: OutputFolder, plan: Plan) -> Summary | None:
    """Return the summary of a folder that is complete and unaltered, else ``None``."""
    if not folder.manifest.exists():
        return None
    try:
        recorded = json.loads(folder.manifest.read_bytes())
        recorded.pop(LEFT_OUT, None)
        summary = summarise(folder, plan)
    except Exception:  # a damaged or missing part: whatever it raises, the folder is not complete
        return None
    return summary if summary.manifest == recorded else None
