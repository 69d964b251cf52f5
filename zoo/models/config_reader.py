"""Read the ``config.json`` of a converted model.

The file is not trusted: architectures, sizes and texts are checked as they are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import UserError, reason_of
from zoo.models.bounded_args import require_bounded_args
from zoo.models.model_config import (
    FORMAT,
    HEADS,
    MODEL,
    OWN_ARGS,
    SECTION,
    TIMM_PREFIX,
    ModelConfig,
    crop_pct,
    timm_name_and_args,
)
from zoo.models.other_files import require_regular
from zoo.models.registry import Architecture
from zoo.system.json_reader import BadJson, parse_json, whole
from zoo.transforms.preprocess import Preprocessing

_MAX_CONFIG_BYTES = 1 << 20
_PADDINGS = ("symmetric", "same", "same-pool")
_STEMS = ("imagenet", "cifar")
_COLOURS = ("", "lab", "ycbcr", "ydbdr")
_ARCHITECTURE_CHARACTERS = set("abcdefghijklmnopqrstuvwxyz0123456789_")  # of timm's names
_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


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
    # Name the file in the message of every wrong value.
    try:
        return _parse(config)
    except UserError as error:
        raise UserError(f"{path}: {reason_of(error)}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} was not written by `zoo convert`, or by a newer version ({reason_of(error)})"
        ) from None


def require_channels(preprocessing: Preprocessing, architecture: Architecture) -> None:
    """Raise UserError unless images have as many channels as a network takes."""
    if preprocessing.channels != architecture.in_chans:
        raise UserError(f"images of {preprocessing.channels} channels, a network of {architecture.in_chans}")


# ---------------------------------------------------------------- parsing; its KeyErrors become a UserError


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
    model_args: Any = {k: v for k, v in config["model_args"].items() if k not in OWN_ARGS}
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
