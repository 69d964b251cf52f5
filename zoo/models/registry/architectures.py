"""The encoders: each a ResNet that timm builds, with what the official codes change in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet200",
    "resnetv2_18",
    "resnetv2_50",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""timm's names of the networks that have a stem, a padding and four stages here; see ``Architecture.is_resnet``."""

_PROJECTED = ("resnet18", "resnetv2_18")
_STEM = {"imagenet": 7 * 7, "cifar": 3 * 3}  # weights of each channel of the first convolution and of the images


class ModelArgs(TypedDict, total=False):
    """The arguments of ``timm.create_model`` that an architecture can set."""

    preact: bool
    layers: list[int]
    channels: list[int]
    width_factor: float
    norm_layer: str
    cardinality: int
    base_width: int
    stem_width: int  # ours: channels of the stem where they are not 64
    in_chans: int
    img_size: int
    dynamic_img_size: bool


@dataclass(frozen=True)
class Architecture:
    """A ResNet as timm builds it, or another network of timm (``zoo.models.backbones``).

    Attributes:
        timm_name, model_args: arguments of ``timm.create_model``.
        num_features: length of an embedding.
        parameters: number of trainable scalars of the encoder without a classifier.
        padding: ``symmetric`` (PyTorch), ``same`` (TensorFlow; DeepMind's weights) or ``same-pool`` (TensorFlow's, in
            the max-pool only; SimCLR's weights).
        stem: ``imagenet`` (7x7 convolution of stride 2, max-pool) or ``cifar`` (3x3 of stride 1, no pool: for images
            of about 32 pixels; SimCLR app. B.9, SimSiam app. D).
        project_first: the first block's shortcut has a projection although no width changes there, as in DeepMind's
            R18 and R34 and in Local Aggregation's R18, which is timm's pre-activation ``resnetv2_18``.
        colours: ``lab``, ``ycbcr`` or ``ydbdr``: two such networks, of the first and of the two other channels of that
            colour space (``zoo.models.colour_split``); ``num_features`` and ``parameters`` are those of both.
    """

    timm_name: str
    num_features: int
    parameters: int
    model_args: ModelArgs = field(default_factory=ModelArgs)
    padding: str = "symmetric"
    stem: str = "imagenet"
    project_first: bool = False
    colours: str = ""

    @property
    def in_chans(self) -> int:
        """Channels of the images: 1 (grayscale), 2 (with alpha), 3 (RGB) or 4 (RGBA)."""
        return self.model_args.get("in_chans", 3)

    @property
    def is_resnet(self) -> bool:
        """True for the ResNets of this zoo: only they have a stem, a padding and maps of four stages.

        Of timm's pre-activation networks it is the one with a projection in its first block.
        """
        if self.timm_name == "resnetv2_50":
            return self.model_args.get("preact") is False
        return self.timm_name in RESNETS and (self.timm_name != "resnetv2_18" or self.project_first)

    @property
    def can_project_first(self) -> bool:
        """True if the widths of the first block need no projection, so that ``project_first`` can add one."""
        first = self.model_args.get("channels", [64])[0]
        plain = not self.colours and not self.model_args.keys() & {"norm_layer", "stem_width"}
        return self.timm_name in _PROJECTED and plain and first == 64

    def variant(self, *, stem: str, padding: str, project_first: bool) -> Architecture:
        """Return this network with another stem, padding and projection; ``parameters`` is updated."""
        width = int(self.model_args.get("stem_width", 64 * self.model_args.get("width_factor", 1)))
        added = (_STEM[stem] - _STEM[self.stem]) * width * self.in_chans
        # A projection is a 1x1 convolution, with a norm unless the block has it before its convolutions.
        projection = width * width + (0 if self.timm_name == "resnetv2_18" else 2 * width)
        added += (project_first - self.project_first) * projection
        return replace(
            self, stem=stem, padding=padding, project_first=project_first, parameters=self.parameters + added
        )


ARCHITECTURES: Mapping[str, Architecture] = {
    # narrow and shallow, for ablations and tests on a CPU; not a published network
    "r10": Architecture("resnet18", 256, 1_246_336, {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}),
    "r18": Architecture("resnet18", 512, 11_176_512),
    # pre-activation, as TensorFlow's official ResNet of version 2 has it (neuroailab/LocalAggregation at 87ac593,
    # model/resnet_model.py)
    "r18_preact": Architecture("resnetv2_18", 512, 11_178_816, project_first=True),
    "r50": Architecture("resnet50", 2048, 23_508_032),
    "r50x2": Architecture("resnetv2_50", 4096, 93_907_072, {"preact": False, "width_factor": 2}),
    "r50x4": Architecture("resnetv2_50", 8192, 375_378_176, {"preact": False, "width_factor": 4}),
    "r50x5": Architecture("resnetv2_50", 10240, 586_450_240, {"preact": False, "width_factor": 5}),
    "r101": Architecture("resnet101", 2048, 42_500_160),
    "r152": Architecture("resnet152", 2048, 58_143_808),
    "r200": Architecture("resnet200", 2048, 62_624_832),
    "r200x2": Architecture(
        "resnetv2_50", 4096, 250_128_512, {"preact": False, "layers": [3, 24, 36, 3], "width_factor": 2}
    ),
    # ResNeXts (PyContrast networks/resnet.py:306-373 at 84f94ea): groups and channels of each in the 3x3 convolutions
    "x101_32x4d": Architecture(
        "resnet50", 2048, 42_128_704, {"layers": [3, 4, 23, 3], "cardinality": 32, "base_width": 4}
    ),
    "x101_32x8d": Architecture(
        "resnet50", 2048, 86_742_336, {"layers": [3, 4, 23, 3], "cardinality": 32, "base_width": 8}
    ),
    "x101_64x4d": Architecture(
        "resnet50", 2048, 81_406_272, {"layers": [3, 4, 23, 3], "cardinality": 64, "base_width": 4}
    ),
    "x152_32x4d": Architecture(
        "resnet50", 2048, 57_902_400, {"layers": [3, 8, 36, 3], "cardinality": 32, "base_width": 4}
    ),
    "x152_32x8d": Architecture(
        "resnet50", 2048, 120_323_392, {"layers": [3, 8, 36, 3], "cardinality": 32, "base_width": 8}
    ),
    # without BN: a group norm of 32 groups, and of one, which is layer norm over the channels and places of an image
    "r50_gn": Architecture("resnet50", 2048, 23_508_032, {"norm_layer": "groupnorm"}),
    "r50_ln": Architecture("resnet50", 2048, 23_508_032, {"norm_layer": "groupnorm1"}),
    "r10_gn": Architecture(
        "resnet18",
        256,
        1_246_336,
        {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256], "norm_layer": "groupnorm"},
    ),
    "r10_ln": Architecture(
        "resnet18",
        256,
        1_246_336,
        {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256], "norm_layer": "groupnorm1"},
    ),
    # CMC's (models/resnet.py:111-118, 251-332 at 7b227be): two networks of half, the whole (v2) and twice (v3) the
    # width behind a stem of 64 channels; the small one is ours
    "cmc_r50": Architecture("resnet50", 2048, 11_795_648, {"channels": [32, 64, 128, 256]}, colours="lab"),
    "cmc_r50_ydbdr": Architecture("resnet50", 2048, 11_795_648, {"channels": [32, 64, 128, 256]}, colours="ydbdr"),
    "cmc_r50v2": Architecture("resnet50", 4096, 47_006_656, colours="lab"),
    "cmc_r50v3": Architecture("resnet50", 8192, 187_703_744, {"channels": [128, 256, 512, 1024]}, colours="lab"),
    "cmc_r10": Architecture(
        "resnet18", 256, 639_744, {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}, colours="lab"
    ),
}
