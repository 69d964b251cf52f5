"""``config.json`` of a converted model: timm's own entries plus our section ``siamese_zoo``.

timm and transformers read the file as it is. A network that timm's names cannot express (TensorFlow's padding, another
stem) gets a name with our prefix: timm learns it from ``import zoo.timm_models`` and refuses it otherwise, so that a
wrong network is never built silently. ``zoo.models.config_reader`` reads the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from zoo.models.registry import RESNETS, Architecture
from zoo.transforms.preprocess import Preprocessing

MODEL, HEADS, CONFIG = "model.safetensors", "heads.safetensors", "config.json"
FORMAT = 1
SECTION = "siamese_zoo"
TIMM_PREFIX = "siamese_zoo_"  # of a timm name that ``zoo.timm_models`` registers
TIMM_NAMES = RESNETS
OWN_ARGS = ("padding", "stem", "project_first", "colours")  # arguments of a network with our prefix
_TIMM_DEFAULTS = Architecture("resnet50", 2048, 0)


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
    own = {k: v for k in OWN_ARGS if (v := getattr(architecture, k)) != getattr(_TIMM_DEFAULTS, k)}
    is_own = bool(own) or "stem_width" in architecture.model_args
    return TIMM_PREFIX * is_own + architecture.timm_name, {**architecture.model_args, **own}


def needs_import(architecture: Architecture) -> bool:
    """True if timm and transformers need ``import zoo.timm_models`` to build this network."""
    return timm_name_and_args(architecture)[0].startswith(TIMM_PREFIX)


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
