"""Check the folder of an extraction against its manifest: every hash, every row, no file too many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.manifest import LEFT_OUT, NOTES, HashedFile, Manifest, files_of, summarise_parts
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import PLAN, SHARD, OutputFolder, hash_key, is_shard_file
from zoo.errors import UserError
from zoo.inference.outputs import NEAR_DUPLICATES
from zoo.system.atomic_files import sha256_file

_RESULT_KEYS = ("plan", "images", "ok", "failed", "paths_and_sha256", "shards")
_DEDUPE_KEYS = ("duplicates", "near_duplicates")  # of the result, where duplicates were looked for


@dataclass(frozen=True)
class Verified:
    """A folder of which every part was checked.

    Attributes:
        manifest: the JSON object in the folder.
        fingerprint: the part of it that says how the result was made.
        parts: for each shard the name of its table, then those of the files beside it.
    """

    folder: OutputFolder
    manifest: Manifest
    fingerprint: Fingerprint
    parts: list[list[str]]


def verify(out: Path) -> Verified:
    """Hash and count all shards of ``out`` again, and compare them with its manifest and, if it is there, its plan.

    Raises:
        UserError: one line that names the first difference and how many there are.
    """
    # Read what the manifest claims.
    folder = OutputFolder(out)
    manifest = _read_manifest(folder)
    shards = _shards_of(folder, manifest)
    parts = [[file.name for file in files] for files in shards]
    keys = (*_RESULT_KEYS, *(_DEDUPE_KEYS if "dedupe" in manifest else ()))
    described = {key: value for key, value in manifest.items() if key not in (*keys, NOTES, LEFT_OUT)}

    # The files: every one has its hash, and no shard file is there that the manifest does not name.
    wrong = [line for shard, files in enumerate(shards) for line in _wrong_in_shard(folder, manifest, shard, files)]
    known = {file.name for files in shards for file in files}
    wrong += [f"{name} is not in the manifest" for name in sorted(folder.shard_files() - known)]
    if "dedupe" in manifest:
        near = manifest.get("near_duplicates")
        wrong += _wrong_in_file(folder, NEAR_DUPLICATES, near.get("sha256") if isinstance(near, dict) else None)

    # The contents: counts and names agree with the rows of the shards, and the plan is the manifest's.
    if not wrong:
        try:
            found = summarise_parts(folder, described, manifest["plan"], parts).manifest
        except Exception as error:  # a table with the right hash in a forged manifest can make Arrow raise anything
            raise UserError(f"{out}: a shard is no table of embeddings: run the extraction again") from error
        wrong += [
            f"the manifest's {key!r} is not what the shards hold"
            for key in (*keys, NOTES)
            if found.get(key) != manifest.get(key)
        ]
        plan = Plan.load(folder.plan)
        if plan is not None and plan.key != manifest["plan"]:
            wrong.append(".zoo/plan.parquet is the plan of another run")
    # Report the first difference, and how many follow.
    if wrong:
        more = f" (and {len(wrong) - 1} more differences)" if wrong[1:] else ""
        raise UserError(f"{out}: {wrong[0]}{more}: run the extraction again to put it right")
    return Verified(folder, manifest, _fingerprint_of(folder, described), parts)


def _read_manifest(folder: OutputFolder) -> Manifest:
    try:
        loaded = json.loads(folder.manifest.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder.root} has no manifest.json: run the extraction to its end") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder.manifest} cannot be read: run the extraction again") from error
    if not isinstance(loaded, dict) or any(key not in loaded for key in _RESULT_KEYS):
        raise UserError(f"{folder.manifest} is no manifest of an extraction")
    return loaded


def _fingerprint_of(folder: OutputFolder, described: Manifest) -> Fingerprint:
    try:
        return Fingerprint.from_json(described)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder.manifest} is no manifest of an extraction") from None


def _shards_of(folder: OutputFolder, manifest: Manifest) -> list[list[HashedFile]]:
    try:
        shards = [files_of(entry) for entry in manifest["shards"]]
        if all(is_shard_file(file.name) for files in shards for file in files):  # so none leads outside of the folder
            return shards
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{folder.manifest} is no manifest of an extraction")


def _wrong_in_shard(folder: OutputFolder, manifest: Manifest, shard: int, files: Sequence[HashedFile]) -> list[str]:
    wrong = [line for file in files for line in _wrong_in_file(folder, file.name, file.sha256)]
    if not wrong:
        table, *beside = files
        metadata = pq.read_schema(folder.root / table.name).metadata or {}
        found = [metadata.get(PLAN), metadata.get(SHARD), *(metadata.get(hash_key(f.name).encode()) for f in beside)]
        if found != [str(manifest["plan"]).encode(), b"%d" % shard, *(str(f.sha256).encode() for f in beside)]:
            wrong.append(f"{table.name} belongs to another run")
    return wrong


def _wrong_in_file(folder: OutputFolder, name: str, sha256: object) -> list[str]:
    try:
        found = sha256_file(folder.root / name)
    except OSError:
        return [f"{name} is missing or cannot be read"]
    return [] if found == sha256 else [f"{name} has the sha256 {found[:16]}..., not {str(sha256)[:16]}..."]
