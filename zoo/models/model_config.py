"""``config.json`` of a converted model: timm's own entries plus our section ``siamese_zoo``.

timm and transformers read the file as it is. A network that timm's names cannot express (TensorFlow's padding, another
stem) gets a name with our prefix: timm learns it from ``import zoo.timm_models`` and refuses it otherwise, so that a
wrong network is never built silently. The file is not trusted: architectures, sizes and texts are checked as they are
read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import UserError, reason_of
from zoo.models.registry import Architecture
from zoo.transforms.preprocess import Preprocessing

MODEL, HEADS, CONFIG = "model.safetensors", "heads.safetensors", "config.json"
FORMAT = 1
SECTION = "siamese_zoo"
TIMM_PREFIX = "siamese_zoo_"  # of a timm name that ``zoo.timm_models`` registers
TIMM_NAMES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet200",
    "resnetv2_50",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
MAX_WIDTH, MAX_BLOCKS = 16, 64  # of all channels, and in one stage; timm builds them in two seconds
_MAX_CONFIG_BYTES = 1 << 20
_PADDINGS = ("symmetric", "same", "same-pool")
_NORMS = ("groupnorm", "groupnorm1")  # other than BN
_STEMS = ("imagenet", "cifar")
_OWN_ARGS = ("padding", "stem", "project_first")  # arguments of a network with our prefix
_TIMM_DEFAULTS = Architecture("resnet50", 2048, 0)
_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


@dataclass(frozen=True)
class ModelConfig:
    """The content of ``config.json``.

    Attributes:
        name, tag: ``NAME`` and ``TAG`` of the registry, or the user's own name and ``None``.
        method: ``byol``, ``simsiam``, ``simclr``, ``moco``, ``swav`` or ``unknown``.
        licence: SPDX name, or ``unknown``.
        source: origin of the weights.
        heads: layout of each part in ``heads.safetensors``, see ``zoo.models.head_spec``.
        sha256: hashes of the weight files, by file name.
        extra: other facts as text: the network (online or target) and the sha256 of the official file.
    """

    name: str
    tag: str | None
    method: str
    architecture: Architecture
    preprocessing: Preprocessing
    licence: str
    source: str
    heads: Mapping[str, list[list[object]]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """``NAME.tag``, or ``NAME`` without a tag."""
        return f"{self.name}.{self.tag}" if self.tag else self.name

    def to_json(self) -> dict[str, object]:
        """Return the content of the file."""
        architecture, transform = self.architecture, self.preprocessing
        is_v2 = architecture.timm_name.startswith("resnetv2")
        size = transform.input_size
        timm_name, model_args = timm_name_and_args(architecture)
        return {
            # timm's and transformers' entries
            "architecture": timm_name,
            "num_classes": 0,
            "num_features": architecture.num_features,
            "global_pool": "avg",
            "model_args": model_args,
            "dtype": "float32",  # transformers would otherwise run a float16 file in float16
            "pretrained_cfg": {
                "tag": self.tag or "",
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
                "license": self.licence.lower(),
            },
            # ours
            SECTION: {
                "format": FORMAT,
                "name": self.name,
                "tag": self.tag,
                "method": self.method,
                "parameters": architecture.parameters,
                "padding": architecture.padding,
                "stem": architecture.stem,
                "project_first": architecture.project_first,
                "preprocessing": transform.to_json(),
                "licence": self.licence,
                "source": self.source,
                "heads": dict(self.heads),
                "sha256": dict(self.sha256),
                "extra": dict(self.extra),
            },
        }


def read_config(path: Path) -> ModelConfig:
    """Read a ``config.json``; the weight files need not be there.

    Raises:
        UserError: the file cannot be read, its values are out of range, or ``zoo convert`` did not write it.
    """
    # Read the file within limits: it may come from anywhere.
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise UserError(f"{path} is not a config of a model: it is larger than 1 MB")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path.parent} is not a converted model: config.json cannot be read ({error.strerror})"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not valid JSON") from None
    # Report every malformed value as a problem of the file.
    try:
        return _parse(config)
    except UserError as error:
        raise UserError(f"{path}: {reason_of(error)}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = reason_of(error)
        raise UserError(f"{path} was not written by `zoo convert`, or by a newer version ({reason})") from None


def crop_pct(preprocessing: Preprocessing) -> float:
    """Return the ``crop_pct`` from which timm's ``floor(input_size / crop_pct)`` gives ``resize`` exactly."""
    ratio = preprocessing.input_size / preprocessing.resize
    while math.floor(preprocessing.input_size / ratio) < preprocessing.resize:
        ratio = math.nextafter(ratio, 0)
    return ratio


def timm_name_and_args(architecture: Architecture) -> tuple[str, dict[str, object]]:
    """Return ``architecture`` and ``model_args`` of ``config.json``.

    A network that timm alone can build has timm's name. Every other one has ``TIMM_PREFIX`` before it, and the
    arguments that ``zoo.timm_models`` adds to timm's.
    """
    own = {k: v for k in _OWN_ARGS if (v := getattr(architecture, k)) != getattr(_TIMM_DEFAULTS, k)}
    return TIMM_PREFIX * bool(own) + architecture.timm_name, {**architecture.model_args, **own}


def needs_import(architecture: Architecture) -> bool:
    """True if timm and transformers need ``import zoo.timm_models`` to build this network."""
    return timm_name_and_args(architecture)[0].startswith(TIMM_PREFIX)


# ---------------------------------------------------------------- parsing; KeyError and the like become a UserError


def _parse(config: Any) -> ModelConfig:
    # Check format and file names before the other entries.
    section = config[SECTION]
    if section["format"] != FORMAT:
        raise UserError(f"format {section['format']!r} is not known to this version, only {FORMAT} is")
    sha256 = {str(k): str(v) for k, v in section["sha256"].items()}
    if MODEL not in sha256 or not set(sha256) <= {MODEL, HEADS}:
        raise UserError(f"its weight files must be {MODEL} and perhaps {HEADS}")
    # Parse each entry with a check of its own.
    return ModelConfig(
        name=_name(section["name"]),
        tag=None if section["tag"] is None else _name(section["tag"]),
        method=_name(section["method"]),
        architecture=_parse_architecture(config, section),
        preprocessing=Preprocessing.from_json(section["preprocessing"]),
        licence=line_of_text(section["licence"]),
        source=line_of_text(section["source"]),
        heads={str(k): list(v) for k, v in section["heads"].items()},
        sha256=sha256,
        extra={str(k): line_of_text(v) for k, v in section["extra"].items()},
    )


def _parse_architecture(config: Any, section: Any) -> Architecture:
    """Accept only our own architectures in bounded sizes: a config must not choose a class of timm nor fill memory."""
    # Refuse a network that this version cannot build.
    model_args: Any = {k: v for k, v in config["model_args"].items() if k not in _OWN_ARGS}
    timm_name = str(config["architecture"]).removeprefix(TIMM_PREFIX)
    padding, stem = section["padding"], section["stem"]
    if timm_name not in TIMM_NAMES or padding not in _PADDINGS or stem not in _STEMS:
        raise UserError(f"a network of {timm_name!r}, padding {padding!r}, stem {stem!r} is not known to this version")
    # Check the arguments that timm would build layers by.
    unknown = dict(model_args)
    if timm_name == "resnetv2_50":
        layers, width = unknown.pop("layers", [3, 4, 6, 3]), unknown.pop("width_factor", 1)
        preact = unknown.pop("preact")
        if preact is not False or not _is_size(width, layers):
            raise UserError("model_args are out of range")
    elif unknown.pop("norm_layer", "groupnorm") not in _NORMS:
        raise UserError(f"norm_layer {model_args['norm_layer']!r} is not known to this version")
    if unknown:
        raise UserError(f"model_args {sorted(unknown)} are not known to this version")
    # Both sections must describe the same network.
    architecture = Architecture(
        timm_name,
        int(config["num_features"]),
        int(section["parameters"]),
        model_args,
        padding=padding,
        stem=stem,
        project_first=bool(section["project_first"]),
    )
    if timm_name_and_args(architecture) != (config["architecture"], config["model_args"]):
        raise UserError(f"architecture and model_args contradict the section {SECTION}")
    return architecture


def _is_size(width: Any, layers: Any) -> bool:
    """True for a width and four numbers of blocks within the limits of ``zoo convert``; timm takes them as they are."""
    if type(width) not in (int, float) or not 0 < width <= MAX_WIDTH:
        return False
    return isinstance(layers, list) and len(layers) == 4 and all(type(n) is int and 0 < n <= MAX_BLOCKS for n in layers)


def _name(text: object) -> str:
    """A name that may become part of a path or of a line of output."""
    if not isinstance(text, str) or not 0 < len(text) <= 200 or not set(text) <= _NAME_CHARACTERS:
        raise UserError(f"{str(text)[:60]!r} is not a valid name")
    return text


def line_of_text(text: object) -> str:
    """Return a text of a file that may be printed as it is. Raises UserError: it is none, long, or has more lines."""
    if not isinstance(text, str) or len(text) > 1000 or not text.isprintable():
        raise UserError(f"{str(text)[:60]!r} is not a line of text")
    return text
