"""``zoo convert --from``: an official file to the folder that ``zoo.load`` reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.models import checkpoint_dir
from zoo.models.checkpoint_dir import Description
from zoo.models.registry import Architecture
from zoo.system.atomic_files import sha256_file
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from zoo.convert.common import Official

WHICH = ("online", "target")


@dataclass(frozen=True)
class Kind:
    """A source of checkpoints: the module that reads them, and what holds for the files it published."""

    module: str
    licence: str
    source: str


KINDS = {
    "deepmind-byol": Kind("byol", "CC-BY-NC-4.0", "google-deepmind/deepmind-research, byol"),
    "simsiam": Kind("simsiam", "CC-BY-NC-4.0", "facebookresearch/simsiam"),
    "moco": Kind("moco", "MIT", "facebookresearch/moco"),
    "swav": Kind("swav", "CC-BY-NC-4.0", "facebookresearch/swav"),
    "simclr": Kind("simclr", "Apache-2.0", "google-research/simclr"),
    "torch": Kind("torchvision", "unknown", "unknown"),
}


@dataclass(frozen=True)
class Converted:
    """What stands in the new folder, and which keys of the file do not."""

    folder: Path
    description: Description
    left_out: tuple[str, ...]


def convert(
    file: Path,
    kind: str,
    out: Path,
    *,
    which: str = "online",
    name: str | None = None,
    tag: str | None = None,
    prefix: str | None = None,
    licence: str | None = None,
    source: str | None = None,
    preprocessing: Preprocessing | None = None,
    half: bool = False,
    check: Callable[[Architecture], None] | None = None,
) -> Converted:
    """Reads an official file and writes ``out``, see ``zoo.models.checkpoint_dir``.

    Args:
        kind: a key of ``KINDS``.
        which: ``online`` or ``target`` network, where the file has both.
        name: what the model is called from now on; default: the file's name.
        prefix: for ``torch``: what stands before ``conv1.weight``; default: found, if only one fits.
        licence, source: default: those of the files that this source published.
        preprocessing: default: what the source evaluates with.
        check: called with the architecture that was found, to refuse it before anything is written.

    Raises:
        UserError: an unknown kind, a file that is refused, or a folder in use.
    """
    if kind not in KINDS or which not in WHICH:
        raise UserError(f"--from {kind} --which {which}: one of {', '.join(KINDS)}, and of {', '.join(WHICH)}")
    if prefix is not None and kind != "torch":
        raise UserError("--prefix belongs to --from torch")
    official = read(file, kind, which=which, prefix=prefix)
    if check:
        check(official.architecture)
    described = Description(
        name=name or re.sub(r"[^A-Za-z0-9_-]+", "_", file.name.partition(".")[0])[:100] or "model",
        tag=tag,
        method=official.method,
        architecture=official.architecture,
        preprocessing=preprocessing or official.preprocessing,
        licence=licence or KINDS[kind].licence,
        source=source or KINDS[kind].source,
        extra={"network": which, "converted_from": kind} | _hash(file),
    )
    written = checkpoint_dir.write(out, described, official.encoder, official.heads, half=half)
    return Converted(out, written, official.left_out)


def read(file: Path, kind: str, *, which: str = "online", prefix: str | None = None) -> Official:
    """The tensors of an official file, see ``zoo.convert.common``; nothing is written."""
    reader = import_module(f"zoo.convert.{KINDS[kind].module}")
    if kind == "torch":
        if which != "online":
            raise UserError("--from torch has no target network: choose one with --prefix")
        result: Official = reader.official(file, prefix)
    else:
        result = reader.official(file, which)
    return result


def _hash(file: Path) -> dict[str, str]:
    return {"official_sha256": sha256_file(file)} if file.is_file() else {}  # a bundle may be a folder
