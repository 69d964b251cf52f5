"""Official weights from where their authors put them, converted once, into the cache folder.

    CACHE/models/NAME.TAG/    a converted model, see ``zoo.models.checkpoint_dir``
    CACHE/hashes/             the sha256 of each official file, where nobody published one: as it was on first use
    CACHE/downloads/          files on their way; a killed download goes on from here

A hash that is wrong, by the registry or by what was recorded on first use, is refused before the file is parsed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import fields, replace
from pathlib import Path

from zoo.errors import UserError
from zoo.hub.http_download import Progress, download, is_offline
from zoo.models import checkpoint_dir, registry
from zoo.models.registry import ARCHITECTURES, Architecture, ModelSpec, Weights
from zoo.system.atomic_files import create_exclusively, make_folder, remove_tree, sha256_file
from zoo.system.cache_dir import cache_folder


def cached(spec: ModelSpec, tag: str) -> Path:
    """Where the converted model is, or would be."""
    return cache_folder() / "models" / f"{spec.name}.{tag}"


def fetch(spec: ModelSpec, tag: str, *, file: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of these weights in the cache, downloaded and converted where it is missing or damaged.

    Args:
        file: the official file, if it is here already: then nothing is downloaded.

    Raises:
        UserError: offline, not downloadable (see ``zoo.hub.http_download``), a wrong hash, or not what the registry
        says.
    """
    weights, folder = spec.weights[tag], cached(spec, tag)
    if folder.is_dir():
        try:
            checkpoint_dir.verify(folder)
            return folder
        except UserError:
            remove_tree(folder)
    make_folder(folder.parent)
    if file is not None:
        _convert(file, str(file), spec, tag, folder)
        return folder
    if not is_offline():
        print(f"{folder.name}: downloading {weights.location}", file=sys.stderr, flush=True)
    arriving = cache_folder() / "downloads" / folder.name
    body = download(weights.location, arriving, max_bytes=weights.max_megabytes * 10**6, progress=progress)
    try:
        _convert(body, weights.location, spec, tag, folder)
    finally:
        remove_tree(body.parent)
    return folder


def fetch_by_name(name: str, *, file: Path | None = None, progress: Progress | None = None) -> Path:
    """``fetch`` of ``NAME`` or ``NAME.tag``.

    Raises:
        UserError: see ``fetch``; unknown name or tag, or weights that ship with the package.
    """
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if tag is None or tag not in spec.weights:
        raise UserError(f"{name} has no weights to fetch; its tags: {', '.join(spec.weights) or 'none'}")
    if spec.weights[tag].bundled:
        raise UserError(f"{spec.name}.{tag} ships with the package: nothing to fetch")
    return fetch(spec, tag, file=file, progress=progress)


def recorded_hash(weights: Weights) -> str | None:
    """The sha256 of an official file as it was on first use on this machine."""
    try:
        recorded = json.loads(_record(weights).read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(recorded)


def _convert(file: Path, shown: str, spec: ModelSpec, tag: str, folder: Path) -> None:
    from zoo.convert.convert import convert

    weights = spec.weights[tag]
    sha256 = _hash(file, shown, weights, f"{spec.name}.{tag}")
    assert weights.kind is not None  # only bundled files have none

    def check(found: Architecture) -> None:
        _require_architecture(found, shown, spec, weights)
        if not weights.sha256:  # it is what it should be: from now on nothing else is
            record = _record(weights)
            make_folder(record.parent)
            text = json.dumps({"url": weights.location, "sha256": sha256}, indent=2) + "\n"
            create_exclusively(record, text.encode())

    # read as the kind of file it is, whatever it is called on its way
    try:
        convert(
            file,
            weights.kind,
            folder,
            name=spec.name,
            tag=tag,
            licence=weights.licence,
            source=weights.source,
            preprocessing=weights.preprocessing,
            check=check,
        )
    except UserError:
        if not folder.is_dir():
            raise
        checkpoint_dir.verify(folder)  # another process was first; what it made is as good


def _hash(file: Path, shown: str, weights: Weights, name: str) -> str:
    """The sha256 of ``file``, held against the registry's, or that of the first use."""
    try:
        found = sha256_file(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    if weights.sha256 and found != weights.sha256:
        raise UserError(f"{name}: {shown} has sha256 {found}, the registry says {weights.sha256}: refused")
    if not weights.sha256 and (first := recorded_hash(weights)) not in (None, found):
        raise UserError(
            f"{name}: {shown} has sha256 {found}, on first use it had {first}: refused; "
            f"if you trust the new file, remove {_record(weights)}"
        )
    return found


def _require_architecture(found: Architecture, shown: str, spec: ModelSpec, weights: Weights) -> None:
    expected = replace(ARCHITECTURES[spec.architecture], padding=weights.padding)
    if found != expected:
        names = [f.name for f in fields(expected) if getattr(found, f.name) != getattr(expected, f.name)]
        others = ", ".join(f"{name} {getattr(found, name)}, not {getattr(expected, name)}" for name in names)
        raise UserError(f"{spec.name}: {shown} holds another network ({others}): refused")


def _record(weights: Weights) -> Path:
    return cache_folder() / "hashes" / f"{hashlib.sha256(weights.location.encode()).hexdigest()[:16]}.json"
