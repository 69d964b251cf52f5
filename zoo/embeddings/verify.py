"""Check the folder of an extraction against its manifest: every hash, every row, no file too many.

Hashes prove that shards are what the manifest says; what the manifest says of the model is proved by the plan, from
which every shard has its key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.manifest import (
    DEDUPE_KEYS,
    LEFT_OUT,
    NOTES,
    RESULT_KEYS,
    HashedFile,
    Manifest,
    files_of,
    files_of_duplicates,
    is_altered,
    read,
    summarise_parts,
)
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import PLAN, SHARD, OutputFolder, hash_key, names
from zoo.errors import UserError
from zoo.system.atomic_files import sha256_file


@dataclass(frozen=True)
class Verified:
    """A folder of which every part was checked.

    Attributes:
        manifest: the JSON object in the folder.
        fingerprint: the part of it that says how the result was made.
        parts: for each shard the name of its table, then those of the files beside it.
        has_plan: the plan is there, and everything in the manifest was compared with it.
    """

    folder: OutputFolder
    manifest: Manifest
    fingerprint: Fingerprint
    parts: list[list[str]]
    has_plan: bool = True


def verify(out: Path) -> Verified:
    """Hash and count all shards of ``out`` again, and compare them, its manifest and its plan with each other.

    Raises:
        UserError: one line that names the first difference and how many there are.
    """
    # Read what the manifest claims.
    folder = OutputFolder(out)
    manifest = read(folder)
    shards = [files_of(entry) for entry in manifest["shards"]]
    parts = [[file.name for file in files] for files in shards]
    keys = (*RESULT_KEYS, *(DEDUPE_KEYS if "dedupe" in manifest else ()))
    described = {key: value for key, value in manifest.items() if key not in (*keys, NOTES, LEFT_OUT)}

    # The files: every one has its hash, and no shard file is there that the manifest does not name.
    wrong = [line for shard, files in enumerate(shards) for line in _wrong_in_shard(folder, manifest, shard, files)]
    known = {file.name for files in shards for file in files}
    wrong += [f"{name} is not in the manifest" for name in sorted(folder.shard_files() - known)]
    for name, sha256 in files_of_duplicates(manifest):
        wrong += _wrong_in_file(folder, name, sha256)

    # The plan, which was frozen before the manifest was written.
    plan = Plan.load(folder.plan)
    if plan is not None:
        wrong += _wrong_in_plan(plan, manifest, described, parts)

    # The contents: counts and names agree with the rows of the shards.
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
    if not wrong and is_altered(folder, folder.manifest.read_bytes()):
        wrong.append(f"{folder.manifest.name} is not the one that the run wrote")
    # Report the first difference, and how many follow.
    if wrong:
        more = f" (and {len(wrong) - 1} more differences)" if wrong[1:] else ""
        raise UserError(f"{out}: {wrong[0]}{more}: run the extraction again to put it right")
    return Verified(folder, manifest, Fingerprint.from_json(described), parts, plan is not None)


def _wrong_in_plan(plan: Plan, manifest: Manifest, described: Manifest, parts: Sequence[Sequence[str]]) -> list[str]:
    """Name what the manifest says of the run and its images, and the plan does not."""
    if plan.key != manifest["plan"]:
        return [".zoo/plan.parquet is the plan of another run"]
    frozen = plan.fingerprint.to_json()
    told, known = (
        {key: json.dumps(value, sort_keys=True) for key, value in said.items()} for said in (described, frozen)
    )
    wrong = [
        f"the manifest's {key!r} is not what its plan says"
        for key in sorted({*told, *known})
        if told.get(key) != known.get(key)
    ]
    if manifest["images"] != plan.images:
        wrong.append(f"the manifest's 'images' are {manifest['images']}, those of its plan {plan.images}")
    if list(map(list, parts)) != [names(plan, shard) for shard in range(plan.shards)]:
        wrong.append("the manifest names other shards than its plan")
    elif any(entry["rows"] != len(plan.rows(shard)) for shard, entry in enumerate(manifest["shards"])):
        wrong.append("a shard has other rows than its plan")
    return wrong


def _wrong_in_shard(folder: OutputFolder, manifest: Manifest, shard: int, files: Sequence[HashedFile]) -> list[str]:
    wrong = [line for file in files for line in _wrong_in_file(folder, file.name, file.sha256)]
    if not wrong:
        table, *beside = files
        try:
            metadata = pq.read_schema(folder.root / table.name).metadata or {}
        except Exception:  # what Arrow raises for damaged bytes is not a closed set
            return [f"{table.name} is no table"]
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
