"""The results of a source that ``zoo plan`` cut into parts, read as one.

``OUT/part-00003`` is an ordinary result, made from ``OUT/part-00003.zooplan``. A part without images has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from zoo.embeddings import manifest as manifest_file
from zoo.embeddings.fingerprint import Fingerprint
from zoo.embeddings.manifest import LEFT_OUT, NOTES, Manifest
from zoo.embeddings.shards import OutputFolder
from zoo.errors import UserError
from zoo.sources.parts import EXTENSION, PARTS, read_cut

_SUMMED = ("images", "ok", "duplicates")
_COUNTED = ("failed", NOTES)
_OF_A_PART = (*_SUMMED, *_COUNTED, LEFT_OUT, "plan", "paths_and_sha256", "near_duplicates", "shards")


def result_folders(out: Path) -> list[Path]:
    """Return the folders of the results in ``out``: itself, or those of all parts of a cut.

    Raises:
        UserError: a part is not finished; the line has its command.
    """
    if OutputFolder(out).manifest.exists() or not (out / PARTS).is_file():
        return [out]
    parts = [part for part in read_cut(out).parts if part.rows]
    missing = [part.name for part in parts if not OutputFolder(out / part.name).manifest.exists()]
    if missing:
        first = out / missing[0]
        raise UserError(
            f"{len(missing)} of {len(parts)} parts of {out} are not finished: "
            f"run `zoo extract {first}{EXTENSION} --out {first}`" + (" and so on" if missing[1:] else "")
        )
    # A part has the rows that the cut gave it.
    for part in parts:
        found = manifest_file.read(OutputFolder(out / part.name))["images"]
        if found != part.rows:
            raise UserError(f"{out / part.name} has {found} images, its part {part.rows}: extract the part itself")
    return [out / part.name for part in parts]


def joined_manifest(manifests: Sequence[Manifest], names: Sequence[str]) -> Manifest:
    """Return one manifest for the results of parts: that of the only one, or their fingerprint, sums and keys.

    Its ``plan`` is a hash of the keys of the parts' plans, which stand in ``parts`` with their names and counts.

    Raises:
        UserError: the parts were not made alike; the line names the first difference.
    """
    if len(manifests) == 1:
        return manifests[0]
    first, *others = [_fingerprint(manifest) for manifest in manifests]
    for name, other in zip(names[1:], others, strict=True):
        if found := first.differences(other):
            raise UserError(f"{names[0]} and {name} were made in different ways ({found[0]}): make one of them again")
    joined: Manifest = dict(first.to_json())
    keys = "\n".join(str(manifest["plan"]) for manifest in manifests)
    joined["plan"] = hashlib.sha256(keys.encode()).hexdigest()
    for key in _SUMMED:
        if key in manifests[0]:
            joined[key] = sum(manifest.get(key, 0) for manifest in manifests)
    for key in _COUNTED:
        reasons = sorted({reason for manifest in manifests for reason in manifest.get(key, {})})
        counts = {reason: sum(manifest.get(key, {}).get(reason, 0) for manifest in manifests) for reason in reasons}
        if counts or key == "failed":
            joined[key] = counts
    joined["parts"] = [
        {"part": name, "plan": manifest["plan"], "images": manifest["images"]}
        for name, manifest in zip(names, manifests, strict=True)
    ]
    return joined


def _fingerprint(manifest: Manifest) -> Fingerprint:
    return Fingerprint.from_json({key: value for key, value in manifest.items() if key not in _OF_A_PART})
