"""``zoo convert --from``: convert an official file to the folder that ``zoo.load`` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError, reason_of
from zoo.models import checkpoint_dir
from zoo.models.model_config import ModelConfig
from zoo.models.other_files import require_regular
from zoo.models.registry import MODELS, Architecture, Weights
from zoo.system.atomic_files import sha256_file
from zoo.system.shortage import raise_if_short
from zoo.transforms.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.convert.common import OfficialCheckpoint

WHICH = ("online", "target")


@dataclass(frozen=True)
class CheckpointKind:
    """One kind of official file.

    Attributes:
        module: the module of ``zoo.convert`` that reads it; ``layouts`` has the kind in its table.
    """

    module: str


_TABLE = (  # the keys of zoo.convert.layouts.LAYOUTS, which imports torch
    "mocov3",
    "dino",
    "barlowtwins",
    "vicreg",
    "densecl",
    "lemniscate",
    "pycontrast",
    "cmc",
    "vissl",
)
UNKNOWN = "unknown"  # licence or source of a file that nobody has stated
KINDS = {
    "deepmind-byol": CheckpointKind("byol"),
    "simsiam": CheckpointKind("simsiam"),
    "moco": CheckpointKind("moco"),
    "swav": CheckpointKind("swav"),
    "simclr": CheckpointKind("simclr"),
    "localagg": CheckpointKind("localagg"),
    **{kind: CheckpointKind("layouts") for kind in _TABLE},
    "torch": CheckpointKind("torchvision"),
    "auto": CheckpointKind("auto"),
}
_WITH_PREFIX = ("torch", "auto")


@dataclass(frozen=True)
class Converted:
    """A converted model.

    Attributes:
        left_out: keys of the official file that the folder does not hold.
        dropped: class of each object of the file that was not read, by its place.
        found: what was found and where; empty where the kind of file says it.
    """

    folder: Path
    config: ModelConfig
    left_out: tuple[str, ...]
    dropped: Mapping[str, str]
    found: str = ""


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
    input_size: int | None = None,
    resize: int | None = None,
    method: str | None = None,
    half: bool = False,
    bgr: bool = False,
    check: Callable[[Architecture], None] | None = None,
) -> Converted:
    """Read an official file and write the folder ``out``, see ``zoo.models.checkpoint_dir``.

    Args:
        kind: a key of ``KINDS``; ``auto`` recognises the official kinds, and any other checkpoint with a ResNet in it.
        which: ``online`` or ``target`` network, where the file has both.
        name: name of the model; default: the file's name.
        tag: tag of the registry, if the model is one of its weights.
        prefix: for ``auto`` and ``torch``: text before ``conv1.weight`` in the keys; default: the only one that fits.
        licence, source: default: those of the registry, if the file is one of the published ones by its hash; else
            ``unknown``: the same code also trains files that are the user's own.
        preprocessing: default: the transform that the project evaluates with. With ``auto`` it is for files of no
            official code, whose own goes before it.
        input_size, resize: in pixels, in the place of those of the transform, also of an official code's.
        method: default: what the reader finds; the layout alone does not tell MoCo v1 from v2, for example.
        half: store convolutions in float16.
        bgr: for ``auto`` and ``torch``: the file's network takes BGR images; its first convolution is turned, and the
            new folder takes RGB.
        check: is called with the detected architecture and may refuse it before anything is written.

    Raises:
        UserError: the kind is unknown, the file is refused, it is another one of the registry than ``name`` and
            ``tag`` say, or the folder is in use.
    """
    # Refuse wrong options before the large file is read.
    if kind not in KINDS or which not in WHICH:
        raise UserError(f"--from {kind} --which {which}: one of {', '.join(KINDS)}, and of {', '.join(WHICH)}")
    if prefix is not None and kind not in _WITH_PREFIX:
        raise UserError("--prefix belongs to --from auto and --from torch")
    if bgr and kind not in _WITH_PREFIX:
        raise UserError(f"--bgr belongs to --from auto and --from torch: {kind} says its own")
    require_regular(file)
    if kind == "auto":
        kind = _resolve(file, prefix)
        if bgr and kind != "auto":
            raise UserError(f"{file.name} is a checkpoint of {kind}, which takes RGB images: leave --bgr out")
        if kind != "auto" and preprocessing is not None:
            _require_default_norm(preprocessing, file, kind)
            preprocessing = None
    official = read(file, kind, which=which, prefix=prefix, bgr=bgr)
    if bgr:
        official = replace(official, encoder=_from_bgr(official.encoder, file))
    published = published_weights(file)
    if name is not None and tag is not None and name in MODELS and tag in MODELS[name].weights:
        _require_the_stated(f"{name}.{tag}", MODELS[name].weights[tag], published, official, file)
    # The caller may refuse the network before anything is written.
    if check:
        check(official.architecture)
    transform = for_channels(preprocessing or official.preprocessing, official.architecture.in_chans)
    transform = replace(transform, input_size=input_size or transform.input_size, resize=resize or transform.resize)
    # Only a published file has the publisher's licence; what the caller states goes before the defaults of the kind.
    config = ModelConfig(
        name=name or re.sub(r"[^A-Za-z0-9_-]+", "_", file.name.partition(".")[0])[:100] or "model",
        tag=tag,
        method=method or official.method,
        architecture=official.architecture,
        preprocessing=transform,
        licence=licence or (published.licence if published else UNKNOWN),
        source=source or (published.source if published else UNKNOWN),
        extra={"network": which, "converted_from": kind} | _hash(file),
    )
    written = checkpoint_dir.write(out, config, official.encoder, official.heads, half=half)
    return Converted(out, written, official.left_out, official.dropped, official.found)


def _require_default_norm(preprocessing: Preprocessing, file: Path, kind: str) -> None:
    """Raise UserError where a normalisation was given that would be passed over: an official code says its own."""
    if (preprocessing.mean, preprocessing.std) != (IMAGENET_MEAN, IMAGENET_STD):
        raise UserError(
            f"{file.name} is a checkpoint of {kind}, which says its mean and std: leave --mean and --std out, "
            "or give --from torch or --prefix to read it as any network"
        )


def for_channels(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """Return ImageNet's normalisation for images of another number of channels; one that was given is kept.

    Gray has the mean over the three colours, and alpha, which is opaque, 0 and 1.

    Raises:
        UserError: a normalisation was given for another number of channels.
    """
    if preprocessing.channels == channels:
        return preprocessing
    if (preprocessing.mean, preprocessing.std) != (IMAGENET_MEAN, IMAGENET_STD):
        raise UserError(
            f"--mean and --std have {preprocessing.channels} numbers, the network takes {channels} channels"
        )
    gray = [round(sum(values) / 3, 4) for values in (IMAGENET_MEAN, IMAGENET_STD)]
    mean = {1: (gray[0],), 2: (gray[0], 0.0), 4: (*IMAGENET_MEAN, 0.0)}[channels]
    std = {1: (gray[1],), 2: (gray[1], 1.0), 4: (*IMAGENET_STD, 1.0)}[channels]
    return replace(preprocessing, mean=mean, std=std)


def _from_bgr(encoder: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return an encoder that takes RGB in the place of one that takes BGR."""
    stem = "stem.conv.weight" if "stem.conv.weight" in encoder else "conv1.weight"
    if encoder[stem].shape[1] != 3:
        raise UserError(f"{file.name} takes {encoder[stem].shape[1]} channels: --bgr is for 3")
    return {**encoder, stem: encoder[stem].flip(1)}


def _require_the_stated(
    name: str, weights: Weights, published: Weights | None, official: OfficialCheckpoint, file: Path
) -> None:
    """Raise UserError where a file that stands for weights of the registry is known as others, or holds others."""
    if published is not None and published != weights:
        own = next(f"{s.name}.{t}" for s in MODELS.values() for t, w in s.weights.items() if w == published)
        raise UserError(f"{file.name} is {own} by its hash, not {name}: refused")
    if not official.evaluated:
        raise UserError(
            f"{file.name} is no file of {name}, which is one network: it holds {official.found}; convert it with "
            "`zoo convert`"
        )


def _resolve(file: Path, prefix: str | None = None) -> str:
    """Return the official kind of a file, or ``auto`` for another checkpoint and where a prefix is given.

    Raises:
        UserError: the file is no checkpoint to convert; the message names the command that takes it.
    """
    from zoo.convert.auto import official_kind

    try:
        found = official_kind(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
    return found if found and prefix is None else "auto"


def read(
    file: Path, kind: str, *, which: str = "online", prefix: str | None = None, bgr: bool = False
) -> OfficialCheckpoint:
    """Read the tensors of an official file; nothing is written.

    Args:
        bgr: the caller turns the first convolution of a network that takes BGR images; ``auto`` refuses it otherwise.

    Raises:
        UserError: the file is refused, or it has no such network.
    """
    if kind in _WITH_PREFIX and which != "online":
        raise UserError(f"--from {kind} has no target network: choose one with --prefix")
    try:
        result = _read(file, kind, which, prefix, bgr=bgr)
        _require_weights(file, result)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # an altered file can hold anything in place of a tensor
        raise_if_short(error)
        raise UserError(f"{file.name} holds no {kind} network that can be read ({reason_of(error)})") from None
    return result


def _read(file: Path, kind: str, which: str, prefix: str | None, *, bgr: bool) -> OfficialCheckpoint:
    reader = import_module(f"zoo.convert.{KINDS[kind].module}")
    result: OfficialCheckpoint
    if kind in _WITH_PREFIX:
        options = {"bgr": bgr} if kind == "auto" else {}
        result = reader.read_official(file, prefix, **options)
    elif kind in _TABLE:
        result = reader.read_layout_of(kind, file, which)
    else:
        result = reader.read_official(file, which)
    for part, state in {"encoder": result.encoder, **result.heads}.items():
        if wrong := next((key for key, value in state.items() if not hasattr(value, "shape")), None):
            raise UserError(f"{file.name} holds a {type(state[wrong]).__name__} as {wrong} of the {part}, no tensor")
    return result


def _require_weights(file: Path, official: OfficialCheckpoint) -> None:
    """Raise UserError with the remedy where the encoder lacks a weight that was in the file, but no tensor."""
    from zoo.convert.common import unread_weights
    from zoo.models.state_dict import check_state

    if reason := unread_weights(official.dropped):
        try:
            check_state(official.encoder, official.architecture, file.name)
        except UserError as error:
            raise UserError(f"{error}{reason}") from None


def published_weights(file: Path) -> Weights | None:
    """Return the registry's weights that a file is, by its hash; ``None`` for any other file."""
    if not file.is_file():  # a TensorFlow checkpoint may be a folder
        return None
    found = {"sha256": sha256_file(file)}
    for spec in MODELS.values():
        for weights in spec.weights.values():
            if weights.sha256 == found["sha256"]:
                return weights
            prefix = weights.hash_prefix
            if prefix is None:
                continue
            if prefix.algorithm not in found:
                with file.open("rb") as opened:
                    found[prefix.algorithm] = hashlib.file_digest(opened, prefix.algorithm).hexdigest()
            if found[prefix.algorithm].startswith(prefix.digits):
                return weights
    return None


def _hash(file: Path) -> dict[str, str]:
    return {"official_sha256": sha256_file(file)} if file.is_file() else {}  # a TensorFlow checkpoint may be a folder
