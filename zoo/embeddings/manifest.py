"""The manifest, the last file of an extraction: what the result holds, how it was made, and the hash of every part.

It has no time, host or absolute path: the same images and the same run give the same bytes. Its own hash stands in
``.zoo/manifest.sha256``, as ``sha256sum`` writes it. The hash is removed before the manifest changes and written after
it: no hash means an earlier version or a run that was killed in between, another hash means that somebody changed the
manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow.parquet as pq

from zoo.embeddings.columns import NOTES_BETWEEN, OK
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DUPLICATE, OutputFolder, is_shard_file, names, require_columns
from zoo.errors import UserError
from zoo.system import atomic_files
from zoo.system.atomic_files import sha256_file
from zoo.system.json_reader import BadJson, fields, items, number, parse_json, sha256, text, whole
from zoo.system.json_types import JSON
from zoo.system.parquet import read_table

MAX_FAILURES = 20
NOTES, LEFT_OUT = "notes", "left_out"
"""Keys of the result that are there where there is something to say: the numbers of images with an embedding by the
note in their column ``error``, and of files that are no rows by extension. Shards cannot tell the second."""
NEAR_DUPLICATES = "_near_duplicates.parquet"
"""File with pairs of near images; readers of Parquet folders pass over names that begin with _."""
NEAR_GROUPS = "_near_duplicate_groups.parquet"
"""File with a row for each image that is near another one."""
OLD_NEAR = {NEAR_DUPLICATES: "near_duplicates.parquet", NEAR_GROUPS: "near_duplicate_groups.parquet"}
"""Their names in results of earlier versions, the oldest of which have no groups."""
PAIRS_FOUND = b"zoo.pairs_found"
"""Metadata key in both files: the number of pairs, of which ``_near_duplicates.parquet`` may hold the first ones."""
NEAR_THRESHOLD = b"zoo.near_threshold"
"""Metadata key of the pairs: the centred cosine that ``near`` ``auto`` chose; not there with a fixed cosine."""
GROUPS = b"zoo.groups"
"""Metadata key in ``_near_duplicate_groups.parquet``: the number of groups."""
RESULT_KEYS = ("plan", "images", "ok", "failed", "paths_and_sha256", "shards")
"""Keys of a manifest that state the result; those of the fingerprint say how it was made."""
DEDUPE_KEYS = ("duplicates", "near_duplicates")
"""More of them, where duplicates were looked for."""
_MAX_ROWS = 2**40  # in all
_READ = ["path", "path_bytes", "sha256", "status", "error"]

Manifest: TypeAlias = dict[str, Any]
"""The JSON object of ``_manifest.json``: a fingerprint's, then counts and ``shards``."""


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
        table = read_table(folder.root / table_name, _READ)
        require_columns(table)
        rows = table.to_pylist()
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
    path = _near_file(folder, NEAR_DUPLICATES)
    pairs = pq.read_metadata(path)
    near: Manifest = {"file": path.name, "pairs": pairs.num_rows, "sha256": sha256_file(path)}
    if (found := (pairs.metadata or {}).get(PAIRS_FOUND)) is None:  # an earlier version wrote no groups
        return near
    if (threshold := pairs.metadata.get(NEAR_THRESHOLD)) is not None:
        near["threshold"] = float(threshold)
    groups = _near_file(folder, NEAR_GROUPS)
    metadata = pq.read_metadata(groups)
    return {
        **near,
        "pairs_found": int(found),
        "groups": {
            "file": groups.name,
            "groups": int(metadata.metadata[GROUPS]),
            "images": metadata.num_rows,
            "sha256": sha256_file(groups),
        },
    }


def _near_file(folder: OutputFolder, name: str) -> Path:
    """Return the path of a file of near duplicates, by its old name where there is none by the new one."""
    new, old = folder.root / name, folder.root / OLD_NEAR[name]
    return old if not new.exists() and old.exists() else new


def parse(data: bytes) -> Manifest:
    """Parse a manifest and check every value that this version reads: the one reader of manifests.

    Raises:
        BadJson: it is no manifest, a value is out of its range, or a file's name is none of a shard, so that it could
            lead out of the folder.
    """
    manifest = fields(parse_json(data), *RESULT_KEYS)
    result = (*RESULT_KEYS, *(DEDUPE_KEYS if "dedupe" in manifest else ()))
    Fingerprint.from_json({key: value for key, value in manifest.items() if key not in result})
    # The counts.
    sha256(manifest["plan"])
    sha256(manifest["paths_and_sha256"])
    for count in (manifest["images"], manifest["ok"], manifest.get("duplicates", 0)):
        whole(count, most=_MAX_ROWS)
    for key, count in fields(manifest["failed"]).items():
        text(key)
        whole(count, 1, _MAX_ROWS)
    if "near_duplicates" in result and manifest.get("near_duplicates") is not None:
        _check_near_duplicates(fields(manifest["near_duplicates"], "file", "pairs", "sha256"))
    # The shards.
    shards = [fields(shard, "file", "rows", "sha256") for shard in items(manifest["shards"])]
    if not shards or sum(whole(shard["rows"], 1, _MAX_ROWS) for shard in shards) > _MAX_ROWS:
        raise BadJson("it has no shard, or too many rows")
    parts: list[JSON] = []
    for shard in shards:
        beside = [shard["vectors"]] if "vectors" in shard else []
        files = [shard, *map(fields, beside), *map(fields, items(shard.get("more_vectors", [])))]
        parts += [fields(file, "file", "sha256")["file"] for file in files]
        for file in files:
            sha256(file["sha256"])
    if not all(is_shard_file(name) for name in parts) or len(set(map(str, parts))) < len(parts):
        raise BadJson("it names a file that is none of a shard, or one twice")
    return manifest


def _check_near_duplicates(near: Manifest) -> None:
    found = [near, *([fields(near["groups"], "file", "groups", "images", "sha256")] if "groups" in near else [])]
    named = [entry["file"] for entry in found]
    if named not in (list(OLD_NEAR)[: len(found)], list(OLD_NEAR.values())[: len(found)]):
        raise BadJson("it names other files of near duplicates")
    number(near.get("threshold", 1), 0, 1)
    for entry in found:
        sha256(entry["sha256"])
        for key in ("pairs", "pairs_found", "groups", "images"):
            if not isinstance(entry.get(key, 0), dict):
                whole(entry.get(key, 0))


def read(folder: OutputFolder) -> Manifest:
    """Read the manifest of a finished extraction.

    Raises:
        UserError: there is none, or ``parse`` refuses it.
    """
    again = "run the same `zoo extract` again"
    try:
        return parse(folder.manifest.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder.root} has no _manifest.json, it is no finished extraction: run `zoo extract` to its end"
        ) from None
    except OSError as error:
        raise UserError(f"{folder.manifest} cannot be read ({error.strerror}): allow reading it") from error
    except BadJson as error:
        raise UserError(
            f"{folder.manifest} is damaged, it is no manifest of an extraction ({error}): {again}"
        ) from None


def files_of(shard: Manifest) -> list[HashedFile]:
    """Return the files of an entry of a manifest's ``shards``, its table first."""
    entries = [shard, *([shard["vectors"]] if "vectors" in shard else []), *shard.get("more_vectors", [])]
    return [HashedFile(entry["file"], entry.get("sha256")) for entry in entries]


def files_of_duplicates(manifest: Manifest) -> list[HashedFile]:
    """Return the files of near duplicates, where a manifest has any: pairs, and groups after version 0.2."""
    if "dedupe" not in manifest:
        return []
    near = manifest.get("near_duplicates") or {}
    pairs = HashedFile(near.get("file", NEAR_DUPLICATES), near.get("sha256", "none"))
    groups = near.get("groups")
    return [pairs, *([HashedFile(groups["file"], groups["sha256"])] if groups else [])]


def write(folder: OutputFolder, summary: Summary, left_out: Mapping[str, int] | None = None) -> None:
    """Commit the folder: with its manifest an extraction is complete.

    Args:
        left_out: numbers of files that are no rows, by extension.
    """
    contents = {**summary.manifest, **({LEFT_OUT: dict(left_out)} if left_out else {})}
    data = (json.dumps(contents, indent=2) + "\n").encode()
    atomic_files.remove(folder.manifest_hash)
    folder.commit(folder.manifest.name, lambda file: file.write(data))
    digest = hashlib.sha256(data).hexdigest()
    # The result is complete without it: a full disk, or another run that cleared the temporary files, does not matter.
    with suppress(FileNotFoundError, UserError):
        line = f"{digest}  {folder.manifest.name}\n"
        atomic_files.atomic_write_text(folder.manifest_hash, line, scratch=folder.scratch)


def is_altered(folder: OutputFolder, data: bytes) -> bool:
    """Return whether a hash is recorded, and it is not that of the manifest ``data``."""
    try:
        recorded = folder.manifest_hash.read_bytes()[:64]
    except OSError:
        return False
    return recorded != hashlib.sha256(data).hexdigest().encode()


def completed(folder: OutputFolder, plan: Plan) -> Summary | None:
    """Return the summary of a folder that is complete and unaltered, else ``None``."""
    if not folder.manifest.exists():
        return None
    try:
        data = folder.manifest.read_bytes()
        recorded = parse(data)
        recorded.pop(LEFT_OUT, None)
        summary = summarise(folder, plan)
    except Exception:  # a damaged or missing part: whatever it raises, the folder is not complete
        return None
    return summary if summary.manifest == recorded and not is_altered(folder, data) else None
