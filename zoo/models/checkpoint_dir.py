"""A converted model on disk: one folder, which is also exactly what one repository of a hub holds.

    model.safetensors   the encoder alone, in the key names of the timm architecture that config.json names
    heads.safetensors   projector, predictor, classifier, prototypes, where the official file has them
    config.json         as timm reads it, plus our own section ``siamese_zoo``

timm and transformers read the first and the last of these. A network that timm's names cannot express (TensorFlow's
padding, another stem) has a name of ours there, which timm learns from ``import zoo.timm_models`` and refuses without
it: a wrong network is never built silently. A folder is written whole or not at all, and everything in it is checked
before it is used: hashes, layouts, keys, shapes, values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.models.registry import Architecture
from zoo.system.atomic_files import atomic_write_bytes, atomic_write_text, create_folder_exclusively, sha256_file
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

MODEL, HEADS, CONFIG = "model.safetensors", "heads.safetensors", "config.json"
FILES = (MODEL, HEADS, CONFIG)
FORMAT = 1
SECTION = "siamese_zoo"
_MAX_CONFIG_BYTES = 1 << 20
OURS = "siamese_zoo_"  # before the timm name of a network that timm alone cannot build
TIMM_NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200", "resnetv2_50")
_PADDINGS = ("symmetric", "same", "same-pool")
_STEMS = ("imagenet", "cifar")
_OWN_ARGS = ("padding", "stem", "project_first")
_PLAIN = Architecture("resnet50", 2048, 0)


@dataclass(frozen=True)
class Description:
    """What ``config.json`` says.

    Attributes:
        name, tag: ``NAME`` and ``TAG`` of the registry, or a name of the user's own and None.
        method: ``byol``, ``simsiam``, ``simclr``, ``moco``, ``swav`` or ``unknown``.
        licence, source: SPDX name (``unknown`` where nobody said) and where the weights are from.
        heads: layout of each part in ``heads.safetensors``, see ``zoo.models.head_spec``.
        sha256: of the weight files, by file name.
        extra: anything else worth keeping: which network (online or target), the official file's sha256.
    """

    name: str
    tag: str | None
    method: str
    architecture: Architecture
    preprocessing: Preprocessing
    licence: str
    source: str
    heads: Mapping[str, list[list[Any]]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """``NAME.tag``, or the name alone."""
        return f"{self.name}.{self.tag}" if self.tag else self.name


def write(
    folder: Path,
    description: Description,
    encoder: Mapping[str, Tensor],
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    *,
    half: bool = False,
) -> Description:
    """Writes a converted model; ``folder`` must not exist yet, or be empty.

    Args:
        description: ``heads`` and ``sha256`` in it are filled in here.
        encoder: state dict of the architecture, without ``num_batches_tracked``.
        heads: state dicts of ``nn.Sequential`` by part (``zoo.models.head_spec.PARTS``).
        half: convolutions and linear layers in float16; BN stays float32.

    Returns:
        The description as it stands in the folder.

    Raises:
        UserError: the folder is in use, keys or shapes do not fit the architecture, values are not finite, or the
            disk is full; nothing is left behind.
    """
    written = []

    def fill(temporary: Path) -> None:
        written.append(_fill(temporary, description, encoder, heads or {}, half=half))

    if not create_folder_exclusively(folder, fill):
        raise UserError(f"{folder} holds something already: choose another folder or remove it")
    return written[0]


def read(folder: Path) -> Description:
    """What a folder says of itself; weights are not opened yet.

    Raises:
        UserError: no such folder, no or a hostile ``config.json``, a missing weight file.
    """
    description = read_config(folder / CONFIG)
    for file in description.sha256:
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file}: convert or fetch it again")
    return description


def read_config(path: Path) -> Description:
    """What a ``config.json`` says, wherever its weights are.

    Raises:
        UserError: it cannot be read, is hostile, or not of ``zoo convert``.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise UserError(f"{path} is no config of a model: it is larger than 1 MB")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path.parent} is no converted model: config.json cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON") from None
    try:
        return _parse(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} was not written by `zoo convert`, or by a newer version ({error!r})") from None


def verify(folder: Path) -> Description:
    """``read``, and the sha256 of every weight file against ``config.json``.

    Raises:
        UserError: see ``read``; or a file has another hash, which is found before it is parsed.
    """
    description = read(folder)
    for file, expected in description.sha256.items():
        if sha256_file(folder / file) != expected:
            raise UserError(f"{folder / file} does not have the sha256 of config.json: convert or fetch it again")
    return description


def crop_pct(preprocessing: Preprocessing) -> float:
    """The number from which timm's ``floor(input_size / crop_pct)`` gives back ``resize`` exactly."""
    ratio = preprocessing.input_size / preprocessing.resize
    while math.floor(preprocessing.input_size / ratio) < preprocessing.resize:
        ratio = math.nextafter(ratio, 0)
    return ratio


def timm_spelling(architecture: Architecture) -> tuple[str, dict[str, Any]]:
    """``architecture`` and ``model_args`` of ``config.json``.

    What timm builds by itself has timm's name; anything else has ``OURS`` before it and says in the arguments what is
    different, for ``zoo.timm_models``.
    """
    different = {k: v for k in _OWN_ARGS if (v := getattr(architecture, k)) != getattr(_PLAIN, k)}
    return OURS * bool(different) + architecture.timm_name, {**architecture.model_args, **different}


def needs_import(architecture: Architecture) -> bool:
    """Whether timm and transformers need ``import zoo.timm_models`` to build this network."""
    return timm_spelling(architecture)[0].startswith(OURS)


def config_of(description: Description) -> dict[str, Any]:
    """The content of ``config.json``."""
    architecture, transform = description.architecture, description.preprocessing
    is_v2 = architecture.timm_name.startswith("resnetv2")
    size = transform.input_size
    timm_name, model_args = timm_spelling(architecture)
    return {
        "architecture": timm_name,
        "num_classes": 0,
        "num_features": architecture.num_features,
        "global_pool": "avg",
        "model_args": model_args,
        "dtype": "float32",  # transformers would otherwise run a float16 file in float16
        "pretrained_cfg": {
            "tag": description.tag or "",
            "input_size": [3, size, size],
            "interpolation": transform.interpolation,
            "crop_pct": crop_pct(transform),
            "crop_mode": "center",
            "mean": list(transform.mean),
            "std": list(transform.std),
            "num_classes": 0,
            "pool_size": [math.ceil(size / 32)] * 2,
            "first_conv": "stem.conv" if is_v2 else "conv1",
            "classifier": "head.fc" if is_v2 else "fc",
            "license": description.licence.lower(),
        },
        SECTION: {
            "format": FORMAT,
            "name": description.name,
            "tag": description.tag,
            "method": description.method,
            "parameters": architecture.parameters,
            "padding": architecture.padding,
            "stem": architecture.stem,
            "project_first": architecture.project_first,
            "preprocessing": transform.to_json(),
            "licence": description.licence,
            "source": description.source,
            "heads": dict(description.heads),
            "sha256": dict(description.sha256),
            "extra": dict(description.extra),
        },
    }


def _fill(
    folder: Path,
    description: Description,
    encoder: Mapping[str, Tensor],
    heads: Mapping[str, Mapping[str, Tensor]],
    *,
    half: bool,
) -> Description:
    import torch
    from safetensors.torch import save

    from zoo.models.head_spec import read_layout
    from zoo.models.state_dict import check_state, half_of

    check_state(encoder, description.architecture, description.full_name)
    # BN's counters, which inference does not read: without them transformers reports missing weights
    counters = [k.removesuffix("running_var") + "num_batches_tracked" for k in encoder if k.endswith(".running_var")]
    files = {MODEL: dict(encoder) | {k: torch.zeros((), dtype=torch.int64) for k in counters}}
    if heads:
        files[HEADS] = {f"{part}.{key}": value for part, state in heads.items() for key, value in state.items()}
    for name, tensors in files.items():
        atomic_write_bytes(folder / name, save(half_of(tensors, half=half), metadata={"format": "pt"}))
    written = replace(
        description,
        heads={part: read_layout(state) for part, state in heads.items()},
        sha256={name: sha256_file(folder / name) for name in files},
    )
    atomic_write_text(folder / CONFIG, json.dumps(config_of(written), indent=2) + "\n")
    if read(folder) != written:
        raise AssertionError("config.json does not say what was written")
    return written


def _parse(config: Any) -> Description:
    section = config[SECTION]
    if section["format"] != FORMAT:
        raise UserError(f"format {section['format']!r} is not known to this version, only {FORMAT} is")
    sha256 = {str(k): str(v) for k, v in section["sha256"].items()}
    if MODEL not in sha256 or not set(sha256) <= {MODEL, HEADS}:
        raise UserError(f"its weight files must be {MODEL} and perhaps {HEADS}")
    return Description(
        name=_word(section["name"]),
        tag=None if section["tag"] is None else _word(section["tag"]),
        method=_word(section["method"]),
        architecture=_parse_architecture(config, section),
        preprocessing=Preprocessing.from_json(section["preprocessing"]),
        licence=_line(section["licence"]),
        source=_line(section["source"]),
        heads={str(k): list(v) for k, v in section["heads"].items()},
        sha256=sha256,
        extra={str(k): _line(v) for k, v in section["extra"].items()},
    )


def _parse_architecture(config: Any, section: Any) -> Architecture:
    """Only our own architectures in bounded sizes: a config must not choose any class of timm, nor fill the memory."""
    args = {k: v for k, v in config["model_args"].items() if k not in _OWN_ARGS}
    timm_name, model_args = str(config["architecture"]).removeprefix(OURS), dict(args)
    padding, stem = section["padding"], section["stem"]
    if timm_name not in TIMM_NAMES or padding not in _PADDINGS or stem not in _STEMS:
        raise UserError(f"a network of {timm_name!r}, padding {padding!r}, stem {stem!r} is not known to this version")
    if timm_name == "resnetv2_50":
        layers, width, preact = args.pop("layers", [3, 4, 6, 3]), args.pop("width_factor", 1), args.pop("preact")
        if preact is not False or not 0 < width <= 16 or len(layers) != 4 or not all(0 < n <= 200 for n in layers):
            raise UserError("model_args are out of range")
    if args:
        raise UserError(f"model_args {sorted(args)} are not known to this version")
    architecture = Architecture(
        timm_name,
        int(config["num_features"]),
        int(section["parameters"]),
        model_args,
        padding=padding,
        stem=stem,
        project_first=bool(section["project_first"]),
    )
    if timm_spelling(architecture) != (config["architecture"], config["model_args"]):
        raise UserError(f"architecture and model_args contradict the section {SECTION}")
    return architecture


def _word(text: Any) -> str:
    """A name that may become part of a path or of a line of output."""
    if not isinstance(text, str) or not 0 < len(text) <= 200 or not set(text) <= _WORD:
        raise UserError(f"{str(text)[:60]!r} is no name")
    return text


_WORD = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def _line(text: Any) -> str:
    if not isinstance(text, str) or len(text) > 1000 or not text.isprintable():
        raise UserError(f"{str(text)[:60]!r} is no line of text")
    return text
