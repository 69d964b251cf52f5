"""Whether the folder of an extraction is what its manifest says: every hash, every row, no file too many."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from zoo.embeddings.manifest import files_of, summarise_parts
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import PLAN, SHARD, Folder, hash_key, is_shard_file
from zoo.errors import UserError
from zoo.inference.outputs import NEAR_DUPLICATES
from zoo.system.atomic_files import sha256_file

_OF_RESULT = ("plan", "images", "ok", "failed", "paths_and_sha256", "shards")
_OF_DEDUPE = ("duplicates", "near_duplicates")  # in the result where copies were looked for


@dataclass(frozen=True)
class Verified:
    """A folder of which every part was checked.

    Attributes:
        manifest: as it stands there.
        parts: per shard the name of its table and, with other formats than parquet, those of the files beside it.
    """

    folder: Folder
    manifest: dict[str, Any]
    parts: list[list[str]]


def verify(out: Path) -> Verified:
    """Hash and count all shards of ``out`` again, and compare with its manifest and, where it is there, its plan.

    Raises:
        UserError: one line that names the first difference and how many there are.
    """
    folder = Folder(out)
    manifest = _manifest(folder)
    parts = _parts(folder, manifest)
    wrong = [line for shard, names in enumerate(parts) for line in _of_shard(folder, manifest, shard, names)]
    wrong += [f"{name} is not in the manifest" for name in sorted(folder.shard_files() - {n for p in parts for n in p})]
    told = (*_OF_RESULT, *(_OF_DEDUPE if "dedupe" in manifest else ()))
    if "dedupe" in manifest:
        near = manifest.get("near_duplicates")
        wrong += _of_file(folder, NEAR_DUPLICATES, near.get("sha256") if isinstance(near, dict) else None)
    if not wrong:
        identity = {key: value for key, value in manifest.items() if key not in told}
        try:
            found = summarise_parts(folder, identity, manifest["plan"], parts).manifest
        except Exception as error:  # a table with the right hash in a forged manifest: whatever it makes Arrow raise
            raise UserError(f"{out}: a shard is no table of embeddings: run the extraction again") from error
        wrong += [
            f"the manifest's {key!r} is not what the shards hold" for key in told if found[key] != manifest.get(key)
        ]
        plan = Plan.load(folder.plan)
        if plan is not None and plan.key != manifest["plan"]:
            wrong.append(".zoo/plan.parquet is the plan of another run")
    if wrong:
        more = f" (and {len(wrong) - 1} more differences)" if wrong[1:] else ""
        raise UserError(f"{out}: {wrong[0]}{more}: run the extraction again to put it right")
    return Verified(folder, manifest, parts)


def _manifest(folder: Folder) -> dict[str, Any]:
    try:
        loaded = json.loads(folder.manifest.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder.root} has no manifest.json: run the extraction to its end") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder.manifest} cannot be read: run the extraction again") from error
    if not isinstance(loaded, dict) or any(key not in loaded for key in _OF_RESULT):
        raise UserError(f"{folder.manifest} is no manifest of an extraction")
    return loaded


def _parts(folder: Folder, manifest: dict[str, Any]) -> list[list[str]]:
    try:
        parts = [[part["file"] for part in files_of(entry)] for entry in manifest["shards"]]
        if all(is_shard_file(name) for names in parts for name in names):  # and so none leads elsewhere
            return parts
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{folder.manifest} is no manifest of an extraction")


def _of_shard(folder: Folder, manifest: dict[str, Any], shard: int, names: list[str]) -> list[str]:
    expected = [part.get("sha256") for part in files_of(manifest["shards"][shard])]
    wrong = [line for name, sha256 in zip(names, expected, strict=True) for line in _of_file(folder, name, sha256)]
    if not wrong:
        metadata = pq.read_schema(folder.root / names[0]).metadata or {}
        told = (metadata.get(PLAN), metadata.get(SHARD), *(metadata.get(hash_key(name).encode()) for name in names[1:]))
        if told != (str(manifest["plan"]).encode(), b"%d" % shard, *(str(s).encode() for s in expected[1:])):
            wrong.append(f"{names[0]} belongs to another run")
    return wrong


def _of_file(folder: Folder, name: str, sha256: object) -> list[str]:
    try:
        found = sha256_file(folder.root / name)
    except OSError:
        return [f"{name} is missing or cannot be read"]
    return [] if found == sha256 else [f"{name} has the sha256 {found[:16]}..., not {str(sha256)[:16]}..."]
