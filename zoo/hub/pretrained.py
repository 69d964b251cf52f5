"""Official weights: downloaded from their authors' servers, converted once, and kept in the cache folder.

    CACHE/models/NAME.TAG/                a converted model, see ``zoo.models.checkpoint_dir``
    CACHE/hashes/                         sha256 of each official file at its first use, if its authors published none
    CACHE/downloads/NAME.TAG.incomplete   a download; after a kill the next run resumes it
    CACHE/downloads/NAME.TAG.lock         held by the process that downloads and converts; the others wait

A file whose hash differs from the registry's, from the prefix that its authors publish, or from the one of its first
use, is refused before it is parsed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

from zoo.errors import UserError
from zoo.hub.http_download import Progress, download, is_offline, remove_partial
from zoo.models import checkpoint_dir, registry
from zoo.models.other_files import refuse_file, require_regular
from zoo.models.registry import ARCHITECTURES, Architecture, ModelSpec, Weights
from zoo.system.atomic_files import create_exclusively, make_folder, remove_tree, sha256_file
from zoo.system.cache_dir import cache_folder
from zoo.system.terminal import print_line
from zoo.system.verbosity import note


def cached(spec: ModelSpec, tag: str) -> Path:
    """Return the folder of the converted model in the cache; it need not exist."""
    return cache_folder() / "models" / f"{spec.name}.{tag}"


def fetch(spec: ModelSpec, tag: str, *, file: Path | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of these weights in the cache; download and convert them where it is missing or damaged.

    Several processes may call this at once: one downloads, the others wait for it.

    Args:
        file: the official file, if it is on this machine already; nothing is then downloaded.
        progress: see ``zoo.hub.http_download.download``.

    Raises:
        UserError: offline, no program can download the file, the download fails, the hash is wrong, or the file holds
            another network than the registry states.
    """
    # Nothing to do if an earlier run has converted it.
    folder = cached(spec, tag)
    if _is_whole(folder):
        return folder
    make_folder(folder.parent)
    # A local file replaces the download.
    if file is not None:
        _refuse_other_kinds(file)
        _convert(file, str(file), spec, tag, folder)
        if not (spec.weights[tag].sha256 or spec.weights[tag].hash_prefix):
            note(f"{folder.name}: its authors publish no hash, so only you know that {file} is their file")
        return folder
    if by_hand := spec.weights[tag].by_hand:
        raise UserError(
            f"{folder.name} cannot be downloaded: {by_hand}. If you have the file ({spec.weights[tag].place}): "
            f"`zoo fetch {folder.name} --file FILE`"
        )
    from filelock import FileLock  # torch and huggingface_hub depend on it

    # One process downloads, the others wait for its result.
    downloads = cache_folder() / "downloads"
    make_folder(downloads)
    with FileLock(downloads / f"{folder.name}.lock"):
        if not _is_whole(folder):  # otherwise another process made it while this one waited
            _download_and_convert(spec, tag, folder, downloads / f"{folder.name}.incomplete", progress)
    return folder


def fetch_by_name(name: str, *, file: Path | None = None, progress: Progress | None = None) -> Path | None:
    """``fetch`` the weights of ``NAME`` or ``NAME.tag``; ``None`` if they ship with the package.

    Raises:
        UserError: as ``fetch``, or the name or tag is unknown, or there is a ``file`` for weights that the package has.
    """
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if tag is None or tag not in spec.weights:
        raise UserError(f"{name} has no weights to fetch; its tags: {', '.join(spec.weights) or 'none'}")
    if spec.weights[tag].bundled:
        if file is not None:
            raise UserError(f"{spec.name}.{tag} ships with the package: leave out --file")
        return None
    return fetch(spec, tag, file=file, progress=progress)


def recorded_hash(weights: Weights) -> str | None:
    """Return the sha256 of an official file at its first use on this machine; ``None`` before that."""
    try:
        recorded = json.loads(_record(weights).read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(recorded)


def _is_whole(folder: Path) -> bool:
    """Return whether a folder of the cache holds its model with the right hashes. A damaged model is removed.

    Raises:
        UserError: the folder holds another model.
    """
    if not folder.is_dir():
        return False
    try:
        config = checkpoint_dir.verify(folder)
    except UserError:
        remove_tree(folder)
        return False
    if config.full_name != folder.name:
        raise UserError(f"{folder} holds {config.full_name}: move it away, the folder is for {folder.name} alone")
    return True


def _download_and_convert(spec: ModelSpec, tag: str, folder: Path, partial: Path, progress: Progress | None) -> None:
    weights = spec.weights[tag]
    if not is_offline():
        print_line(f"{folder.name}: downloading {weights.location}", file=sys.stderr, flush=True)
    body = download(weights.location, partial, max_bytes=weights.max_megabytes * 10**6, progress=progress)
    try:
        _convert(body, weights.location, spec, tag, folder)
    finally:
        remove_partial(partial)
        remove_tree(partial.with_suffix(""))  # downloads that older versions left in a folder


def _refuse_other_kinds(file: Path) -> None:
    """Say what an image, a table, a pipe or a device is, before torch is imported; its reader says the rest."""
    require_regular(file)
    with suppress(OSError), file.open("rb") as opened:
        refuse_file(file, opened.read(16))


def _convert(file: Path, shown: str, spec: ModelSpec, tag: str, folder: Path) -> None:
    from zoo.convert.convert import convert

    # Compare the hash before the file is parsed.
    weights = spec.weights[tag]
    sha256 = _hash(file, shown, weights, f"{spec.name}.{tag}")
    assert weights.kind is not None  # only bundled files have none

    def check(found: Architecture) -> None:
        _require_architecture(found, shown, spec, weights)
        if not weights.sha256:  # the file is plausible: from now on only this one is accepted
            record = _record(weights)
            make_folder(record.parent)
            text = json.dumps({"url": weights.location, "sha256": sha256}, indent=2) + "\n"
            create_exclusively(record, text.encode())

    # Convert with the registry's facts, which the file does not hold.
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
            method=spec.method,
            check=check,
        )
    except UserError:
        if not folder.is_dir():
            raise
        checkpoint_dir.verify(folder)  # another process was first with the same file


def _hash(file: Path, shown: str, weights: Weights, name: str) -> str:
    """Return the sha256 of ``file`` after comparing it with all that is known of its hash."""
    published = weights.hash_prefix
    # Hash by our algorithm, and by the authors' where theirs differs.
    try:
        found = sha256_file(file)
        by_authors = found
        if published and published.algorithm != "sha256":
            with file.open("rb") as opened:
                by_authors = hashlib.file_digest(opened, published.algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    # The registry's hash is the strictest check.
    if weights.sha256 and found != weights.sha256:
        raise UserError(f"{name}: {shown} has sha256 {found}, the registry says {weights.sha256}: refused")
    # The authors' published digits come next.
    if published and not by_authors.startswith(published.digits):
        raise UserError(
            f"{name}: {shown} has {published.algorithm} {by_authors}, its authors publish {published.digits}... "
            f"({published.where}): refused"
        )
    # Without either, compare with the hash of the first use.
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
