"""The table of models: name -> architecture, method, weights. It is literal data, and importing it imports no torch.

Each family of methods is one file of entries; here are only the table and the lookup.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.errors import UserError, did_you_mean
from zoo.models.other_files import refuse_others
from zoo.models.registry import (
    banks,
    bundled,
    byol,
    dino,
    moco,
    pretext,
    redundancy,
    simclr,
    simsiam,
    supervised,
    swav,
)
from zoo.models.registry.architectures import ARCHITECTURES, RESNETS, Architecture, ModelArgs
from zoo.models.registry.weights import (
    BYOL_224,
    FAIR_224,
    IMAGENET_224,
    LINEAR,
    SIMCLR_224,
    SWAV_224,
    HashPrefix,
    ModelSpec,
    Score,
    Weights,
)

__all__ = [
    "ARCHITECTURES",
    "BYOL_224",
    "DEFAULT_MODEL",
    "FAIR_224",
    "FOR_REAL_WORK",
    "IMAGENET_224",
    "LINEAR",
    "MODELS",
    "RESNETS",
    "SIMCLR_224",
    "SWAV_224",
    "Architecture",
    "HashPrefix",
    "ModelArgs",
    "ModelSpec",
    "Score",
    "Weights",
    "did_you_mean_model",
    "find",
    "split_name",
]

DEFAULT_MODEL = "simclr_r18_mini"  # ships with the package
FOR_REAL_WORK = ("mocov2_r50", "byol_r50")
"""What users of the default network are told to take: a good one for any use, and the paper's for research."""

MODELS: Mapping[str, ModelSpec] = {
    spec.name: spec
    for family in (bundled, byol, simsiam, simclr, moco, swav, dino, redundancy, banks, pretext, supervised)
    for spec in family.MODELS
}

_NAMED_ELSEWHERE = {
    **dict.fromkeys(("resnet50", "resnet-50", "resnet_50", "tv_resnet50"), "supervised_r50"),
    **dict.fromkeys(("resnet18", "resnet-18", "resnet_18", "tv_resnet18"), DEFAULT_MODEL),
    **dict.fromkeys(("moco", "moco_r50"), "mocov2_r50"),
    **dict.fromkeys(("npid", "npid_r50", "npid++", "npidpp"), "instdisc_r50"),  # VISSL's name
}
"""Names in torchvision, timm and VISSL, which resemble those of other methods here or none."""


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``byol_r50.deepmind_in1k`` into (``byol_r50``, ``deepmind_in1k``); without a tag it is ``None``."""
    base, _, tag = name.partition(".")
    return base, tag or None


def find(name: str) -> ModelSpec:
    """Return the entry of ``NAME`` or ``NAME.tag``.

    Raises:
        UserError: the name is unknown; the message gives the closest one, or says what the folder of that name is.
    """
    base, _ = split_name(name)
    if base in MODELS:
        return MODELS[base]
    refuse_others(Path(name))  # a folder of that name
    raise UserError(f"unknown model {name!r}: {did_you_mean_model(base)}`zoo list` shows all names")


def did_you_mean_model(name: str) -> str:
    """Return a question with the model that is meant by a name, with a space behind it; nothing where none is."""
    elsewhere = _NAMED_ELSEWHERE.get(name.lower())
    return f"did you mean {elsewhere}? " if elsewhere else did_you_mean(name, MODELS)
