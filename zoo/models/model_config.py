"""``config.json`` of a converted model: timm's own entries plus our section ``siamese_zoo``.

timm and transformers read the file as it is. A network that timm's names cannot express (TensorFlow's padding, another
stem) gets a name with our prefix: timm learns it from ``import zoo.timm_models`` and refuses it otherwise, so that a
wrong network is never built silently. The file is not trusted: architectures, sizes and texts are checked as they are
read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import UserError, reason_of
from zoo.models.backbones import MAX_IMAGE_SIZE
from zoo.models.other_files import require_regular
from zoo.models.registry import RESNETS, Architecture
from zoo.system.json_reader import BadJson, parse_json, whole
from zoo.transforms.preprocess import MODES, Preprocessing

MODEL, HEADS, CONFIG = "model.safetensors", "heads.safetensors", "config.json"
FORMAT = 1
SECTION = "siamese_zoo"
TIMM_PREFIX = "siamese_zoo_"  # of a timm name that ``zoo.timm_models`` registers
TIMM_NAMES = RESNETS
MAX_WIDTH, MAX_BLOCKS = 16, 64  # of all channels, and in one stage; timm builds them in two seconds
_MAX_CONFIG_BYTES = 1 << 20
_PADDINGS = ("symmetric", "same", "same-pool")
_NORMS = ("groupnorm", "groupnorm1")  # other than BN
_STEMS = ("imagenet", "cifar")
_COLOURS = ("", "lab", "ycbcr", "ydbdr")
_OWN_ARGS = ("padding", "stem", "project_first", "colours")  # arguments of a network with our prefix
_TIMM_DEFAULTS = Architecture("resnet50", 2048, 0)
_ARCHITECTURE_CHARACTERS = set("abcdefghijklmnopqrstuvwxyz0123456789_")  # of timm's names
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
        size = transform.input_size
        timm_name, model_args = timm_name_and_args(architecture)
        return {
            # timm's and transformers' entries
            "architecture": timm_name,
            "num_classes": 0,
            "num_features": architecture.num_features,
            "global_pool": _global_pool(architecture),
            "model_args": model_args,
            "dtype": "float32",  # transformers would otherwise run a float16 file in float16
            "pretrained_cfg": {
                "tag": self.tag or "",
                "input_size": [architecture.in_chans, size, size],
                "interpolation": transform.interpolation,
                "crop_pct": crop_pct(transform),
                "crop_mode": "center",
                "mean": list(transform.mean),
                "std": list(transform.std),
                "num_classes": 0,
                **_layer_names(architecture, size),
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
                **({"colours": architecture.colours} if architecture.colours else {}),
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
    require_regular(path)
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise UserError(f"{path} is not a config of a model: it is larger than 1 MB")
        config = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path.parent} is not a converted model: config.json cannot be read ({error.strerror})"
        ) from None
    except BadJson as error:
        raise UserError(f"{path} is not a config of a model: {error}") from None
    except ValueError:
        raise UserError(f"{path} is not a config of a model: it is no text in UTF-8") from None
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
    is_own = bool(own) or "stem_width" in architecture.model_args
    return TIMM_PREFIX * is_own + architecture.timm_name, {**architecture.model_args, **own}


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
    if bool(section["heads"]) != (HEADS in sha256):
        raise UserError(f"it must give layouts of heads and the sha256 of {HEADS}, or neither")
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
    """Accept networks of timm with arguments in bounded sizes: what they build is compared with the file first."""
    # Refuse a network that this version cannot build.
    model_args: Any = {k: v for k, v in config["model_args"].items() if k not in _OWN_ARGS}
    timm_name = str(config["architecture"]).removeprefix(TIMM_PREFIX)
    padding, stem = section["padding"], section["stem"]
    colours = section.get("colours", "")
    if colours not in _COLOURS:
        raise UserError(f"colours {str(colours)[:60]!r} are not known to this version")
    if not 0 < len(timm_name) <= 100 or not set(timm_name) <= _ARCHITECTURE_CHARACTERS:
        raise UserError(f"a network of {timm_name[:60]!r} is not known to this version")
    if padding not in _PADDINGS or stem not in _STEMS:
        raise UserError(f"a network of {timm_name!r}, padding {padding!r}, stem {stem!r} is not known to this version")
    # Check the arguments that timm would build layers by.
    require_bounded_args(timm_name, model_args, colours)
    # Both sections must describe the same network.
    architecture = Architecture(
        timm_name,
        whole(config["num_features"]),
        whole(section["parameters"]),
        model_args,
        padding=padding,
        stem=stem,
        project_first=_flag(section["project_first"]),
        colours=colours,
    )
    preprocessing = Preprocessing.from_json(section["preprocessing"])
    require_channels(preprocessing, architecture)
    _require_same_transform(config.get("pretrained_cfg"), preprocessing)
    own = (architecture.padding, architecture.stem, architecture.project_first)
    if not architecture.is_resnet and own != ("symmetric", "imagenet", False):
        raise UserError(f"{timm_name} is no ResNet, and has no padding, stem or projection of its own")
    if timm_name_and_args(architecture) != (config["architecture"], config["model_args"]):
        raise UserError(f"architecture and model_args contradict the section {SECTION}")
    return architecture


def require_channels(preprocessing: Preprocessing, architecture: Architecture) -> None:
    """Raise UserError unless images have as many channels as a network takes."""
    if preprocessing.channels != architecture.in_chans:
        raise UserError(f"images of {preprocessing.channels} channels, a network of {architecture.in_chans}")


def require_bounded_args(timm_name: str, model_args: Mapping[str, Any], colours: str = "") -> None:
    """Raise UserError unless a file's arguments of a network are known and within limits; timm takes them as they are.

    What the name and the arguments then build is compared with the file's tensors, without memory, before it is used.
    """
    unknown = dict(model_args)
    limits = {"in_chans": max(MODES)}
    is_v2 = timm_name.startswith("resnetv2")
    if timm_name in RESNETS and not is_v2:
        limits |= {"stem_width": 64 * MAX_WIDTH, "cardinality": 1024, "base_width": 1024}
        for name, most in (("layers", MAX_BLOCKS), ("channels", 64 * 8 * MAX_WIDTH)):
            if name in unknown and not _are_four(unknown.pop(name), most):
                raise UserError("model_args are out of range")
    for name, most in limits.items():
        if name in unknown and not (type(value := unknown.pop(name)) is int and 0 < value <= most):
            raise UserError("model_args are out of range")
    if timm_name == "resnetv2_18" or (timm_name == "resnetv2_50" and "preact" in unknown):
        layers, width = unknown.pop("layers", [3, 4, 6, 3]), unknown.pop("width_factor", 1)
        preact = unknown.pop("preact", False) if timm_name == "resnetv2_50" else False
        if preact is not False or not _is_size(width, layers):
            raise UserError("model_args are out of range")
    elif colours:
        if timm_name not in RESNETS or not _is_doubling(model_args.get("channels", [64, 128, 256, 512])):
            raise UserError("model_args are out of range")
    elif timm_name not in RESNETS:
        side, dynamic = unknown.pop("img_size", 1), unknown.pop("dynamic_img_size", True)
        if type(side) is not int or not 0 < side <= MAX_IMAGE_SIZE or dynamic is not True:
            raise UserError("model_args are out of range")
    if timm_name in RESNETS and not is_v2 and unknown.pop("norm_layer", "groupnorm") not in _NORMS:
        raise UserError(f"norm_layer {str(model_args['norm_layer'])[:60]!r} is not known to this version")
    if unknown:
        raise UserError(f"model_args {sorted(unknown)} are not known to this version")


def _global_pool(architecture: Architecture) -> str:
    """timm's name of the pooling; a network that is no ResNet says it itself."""
    if architecture.is_resnet:
        return "avg"
    return str(getattr(_without_memory(architecture), "global_pool", "avg"))


def _layer_names(architecture: Architecture, size: int) -> dict[str, object]:
    """Return the entries of timm's ``pretrained_cfg`` that name layers or depend on the network's strides."""
    if architecture.is_resnet:
        is_v2 = architecture.timm_name.startswith("resnetv2")
        return {
            "pool_size": [math.ceil(size / 32)] * 2,
            "first_conv": "stem.conv" if is_v2 else "conv1",
            "classifier": "head.fc" if is_v2 else "fc",
        }
    config: Mapping[str, object] = getattr(_without_memory(architecture), "pretrained_cfg", {})
    return {key: config[key] for key in ("first_conv", "classifier", "fixed_input_size") if config.get(key)}


def _without_memory(architecture: Architecture) -> object:
    import torch

    from zoo.models.backbones import create

    with torch.device("meta"):
        return create(architecture)


def _is_size(width: Any, layers: Any) -> bool:
    """True for a width and four numbers of blocks within the limits of ``zoo convert``; timm takes them as they are."""
    if type(width) not in (int, float) or not 0 < width <= MAX_WIDTH:
        return False
    return _are_four(layers, MAX_BLOCKS)


def _are_four(numbers: Any, most: int) -> bool:
    return isinstance(numbers, list) and len(numbers) == 4 and all(type(n) is int and 0 < n <= most for n in numbers)


def _is_doubling(channels: Any) -> bool:
    """True for the channels of four stages, each twice the one before, as in CMC's networks of other widths."""
    if not isinstance(channels, list) or not channels or type(channels[0]) is not int:
        return False
    return 0 < channels[0] <= 64 * MAX_WIDTH and channels == [channels[0] << n for n in range(4)]


def _require_same_transform(timms: Any, ours: Preprocessing) -> None:
    """Raise UserError where timm would see other pixels than we do: one of the two has been edited."""
    size = ours.input_size
    for key, value in (
        ("input_size", [ours.channels, size, size]),
        ("interpolation", ours.interpolation),
        ("crop_pct", crop_pct(ours)),
        ("crop_mode", "center"),
        ("mean", list(ours.mean)),
        ("std", list(ours.std)),
    ):
        if timms is not None and timms.get(key, value) != value:
            raise UserError(
                f"{key} of pretrained_cfg, which timm reads, is {str(timms[key])[:60]}, and of the section {SECTION} "
                f"{value}: publish or convert the model again"
            )


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{str(value)[:60]!r} is not true or false")
    return value


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
