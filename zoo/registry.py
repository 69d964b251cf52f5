"""The table of models: name -> architecture, method, weights. Literal data; importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import UserError
from zoo.preprocess import Preprocessing


@dataclass(frozen=True)
class Architecture:
    """A ResNet in timm's words.

    Attributes:
        timm_name, model_args: for ``timm.create_model``.
        num_features: length of an embedding.
        parameters: number of trainable scalars of the encoder without a classifier.
        padding: ``symmetric`` (PyTorch) or ``same`` (TF, DeepMind's weights).
    """

    timm_name: str
    num_features: int
    parameters: int
    model_args: Mapping[str, Any] = field(default_factory=dict)
    padding: str = "symmetric"


_WIDE = {"preact": False}
ARCHITECTURES: Mapping[str, Architecture] = {
    "r18": Architecture("resnet18", 512, 11_176_512),
    "r50": Architecture("resnet50", 2048, 23_508_032),
    "r50x2": Architecture("resnetv2_50", 4096, 93_907_072, _WIDE | {"width_factor": 2}),
    "r50x4": Architecture("resnetv2_50", 8192, 375_378_176, _WIDE | {"width_factor": 4}),
    "r200": Architecture("resnet200", 2048, 62_624_832),
    "r200x2": Architecture("resnetv2_50", 4096, 250_128_512, _WIDE | {"layers": [3, 24, 36, 3], "width_factor": 2}),
}

IMAGENET_224 = Preprocessing(input_size=224, resize=256)


@dataclass(frozen=True)
class Weights:
    """One set of weights of a model.

    Attributes:
        location: ``bundled:FILE`` for a file of ``zoo/bundled``, or the URL of an official file.
        sha256: of that file; ``None`` where nobody could verify it yet.
        licence, source: SPDX name and where it stands.
        preprocessing: what the weights were evaluated with.
        padding: see ``Architecture``.
        card: file in ``model_cards/``.
        selection: how the recipe was chosen and on which images, for the card.
    """

    location: str
    sha256: str | None
    licence: str
    source: str
    preprocessing: Preprocessing = IMAGENET_224
    padding: str = "symmetric"
    card: str | None = None
    selection: str = ""

    @property
    def bundled(self) -> bool:
        """Whether the file ships with the package."""
        return self.location.startswith("bundled:")


@dataclass(frozen=True)
class ModelSpec:
    """A name of the zoo.

    Attributes:
        method: ``byol`` or ``simsiam``.
        architecture: key of ``ARCHITECTURES``.
        recipe: the ``zoo-train`` recipe that produces such weights.
        weights: by tag, the first is the default; empty where none were released.
    """

    name: str
    method: str
    architecture: str
    recipe: str
    weights: Mapping[str, Weights] = field(default_factory=dict)

    @property
    def default_tag(self) -> str | None:
        """The tag that the bare name means, ``None`` without released weights."""
        return next(iter(self.weights), None)


_DEEPMIND = "https://storage.googleapis.com/deepmind-byol/checkpoints/"
_FACEBOOK = "https://dl.fbaipublicfiles.com/simsiam/models/"


def _deepmind(file: str) -> dict[str, Weights]:
    source = "google-deepmind/deepmind-research, byol"
    return {"deepmind_in1k": Weights(_DEEPMIND + file, None, "CC-BY-NC-4.0", source, padding="same")}


def _facebook(folder: str) -> Weights:
    url = f"{_FACEBOOK}{folder}/pretrain/checkpoint_0099.pth.tar"
    return Weights(url, None, "CC-BY-NC-4.0", "facebookresearch/simsiam")


DEFAULT_MODEL = "byol_r18_mini"  # ships with the package

MODELS: Mapping[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "byol_r18_mini",
            "byol",
            "r18",
            "byol_r18_tin32",
            {
                "tin32": Weights(
                    "bundled:byol_r18_mini.tin32.safetensors",
                    "298f33c86aa8f946fed60ea03f859a4464ccdcba61c8503dcd2c9ec4de3f7b43",
                    "Apache-2.0",
                    "this project, trained on Tiny-ImageNet",
                    Preprocessing(input_size=48, resize=48),
                    card="byol_r18_mini.md",
                    selection="The settings come from some eighteen short runs that were compared by kNN on the first "
                    "1,500 to 3,000 test images of CIFAR-10 (JPEG), some of them also on 2,000 of Tiny-ImageNet's "
                    "validation images: both scores are optimistic by that choice. Flowers-17 was looked at once, at "
                    "the end. The crop of 48 pixels was chosen on training images. Nothing was chosen for the random "
                    "network. One seed.",
                )
            },
        ),
        ModelSpec("byol_r18", "byol", "r18", "byol_r18_in1k_300ep"),
        ModelSpec("byol_r50", "byol", "r50", "byol_r50_in1k_1000ep", _deepmind("pretrain_res50x1.pkl")),
        ModelSpec("byol_r50x2", "byol", "r50x2", "byol_r50x2_in1k_1000ep"),
        ModelSpec("byol_r50x4", "byol", "r50x4", "byol_r50x4_in1k_1000ep"),
        ModelSpec("byol_r200", "byol", "r200", "byol_r200_in1k_1000ep"),
        ModelSpec("byol_r200x2", "byol", "r200x2", "byol_r200x2_in1k_1000ep", _deepmind("pretrain_res200x2.pkl")),
        ModelSpec("simsiam_r18", "simsiam", "r18", "simsiam_r18_in1k_100ep"),
        ModelSpec(
            "simsiam_r50",
            "simsiam",
            "r50",
            "simsiam_r50_in1k_100ep",
            {"fair_in1k_100ep": _facebook("100ep"), "fair_in1k_100ep_256bs": _facebook("100ep-256bs")},
        ),
        ModelSpec("simsiam_r50x2", "simsiam", "r50x2", "simsiam_r50x2_in1k_100ep"),
        ModelSpec("simsiam_r50x4", "simsiam", "r50x4", "simsiam_r50x4_in1k_100ep"),
        ModelSpec("simsiam_r200", "simsiam", "r200", "simsiam_r200_in1k_100ep"),
        ModelSpec("simsiam_r200x2", "simsiam", "r200x2", "simsiam_r200x2_in1k_100ep"),
    )
}


def split_name(name: str) -> tuple[str, str | None]:
    """``byol_r50.deepmind_in1k`` -> (``byol_r50``, ``deepmind_in1k``); the tag is ``None`` where none is given."""
    base, _, tag = name.partition(".")
    return base, tag or None


def find(name: str) -> ModelSpec:
    """The entry of ``NAME`` or ``NAME.tag``.

    Raises:
        UserError: unknown name; the message gives the nearest one.
    """
    from difflib import get_close_matches

    base, _ = split_name(name)
    if base in MODELS:
        return MODELS[base]
    near = get_close_matches(base, MODELS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"unknown model {name!r}: {hint}`zoo list` shows all names")
