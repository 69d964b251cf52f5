"""The table of models: name -> architecture, method, weights. It is literal data, and importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

from zoo.errors import UserError, closest_name
from zoo.transforms.preprocess import Preprocessing

RESNETS = (
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
"""timm's names of the networks that have a stem, a padding and four stages here; ``resnetv2_50`` without ``preact``."""


class ModelArgs(TypedDict, total=False):
    """Arguments of ``timm.create_model`` that an architecture may set."""

    preact: bool
    layers: list[int]
    channels: list[int]
    width_factor: float
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
            R18 and R34; only for timm's ``resnet18`` and ``resnet34``.
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
        """True for the ResNets of this zoo: only they have a stem, a padding and maps of four stages."""
        return self.timm_name in RESNETS and (self.timm_name != "resnetv2_50" or self.model_args.get("preact") is False)


ARCHITECTURES: Mapping[str, Architecture] = {
    # narrow and shallow, for ablations and tests on a CPU; not a published network
    "r10": Architecture("resnet18", 256, 1_246_336, {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}),
    "r18": Architecture("resnet18", 512, 11_176_512),
    "r50": Architecture("resnet50", 2048, 23_508_032),
    "r50x2": Architecture("resnetv2_50", 4096, 93_907_072, {"preact": False, "width_factor": 2}),
    "r50x4": Architecture("resnetv2_50", 8192, 375_378_176, {"preact": False, "width_factor": 4}),
    "r50x5": Architecture("resnetv2_50", 10240, 586_450_240, {"preact": False, "width_factor": 5}),
    "r200": Architecture("resnet200", 2048, 62_624_832),
    "r200x2": Architecture(
        "resnetv2_50", 4096, 250_128_512, {"preact": False, "layers": [3, 24, 36, 3], "width_factor": 2}
    ),
    # CMC's: two networks of half the width behind a stem of 64 channels; the small one is ours
    "cmc_r50": Architecture("resnet50", 2048, 11_795_648, {"channels": [32, 64, 128, 256]}, colours="lab"),
    "cmc_r50_ydbdr": Architecture("resnet50", 2048, 11_795_648, {"channels": [32, 64, 128, 256]}, colours="ydbdr"),
    "cmc_r10": Architecture(
        "resnet18", 256, 639_744, {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}, colours="lab"
    ),
}

IMAGENET_224 = Preprocessing(input_size=224, resize=256)
BYOL_224 = replace(IMAGENET_224, resizing="byol")  # deepmind-research byol/utils/dataset.py: 224 / (224 + 32)
# torchvision's default Resize(256) is bilinear: simsiam and moco main_lincls.py, swav eval_linear.py
FAIR_224 = replace(IMAGENET_224, interpolation="bilinear")
SWAV_224 = replace(FAIR_224, std=(0.228, 0.224, 0.225))
# simclr data_util.py: CROP_PROPORTION .875 is 224 / 256; [0, 1] as it is
SIMCLR_224 = replace(IMAGENET_224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resizing="simclr")


@dataclass(frozen=True)
class Score:
    """A published score.

    Attributes:
        value: percent.
        protocol: name of the measurement.
        where: publication.
        verified: True if the number was looked up there, False if it was only remembered.
        spread: what the publication prints after the +-; ``None`` where it prints nothing.
    """

    value: float
    protocol: str
    where: str
    verified: bool = True
    spread: float | None = None

    @property
    def text(self) -> str:
        """The value, and the spread where there is one."""
        return f"{self.value:g}" + (f" ± {self.spread:g}" if self.spread else "")


@dataclass(frozen=True)
class HashPrefix:
    """The first digits of a file's hash, as its authors publish them.

    Such a prefix finds a damaged or exchanged file; it is too short to stop somebody who forges one.

    Attributes:
        algorithm: ``md5`` or ``sha256``.
        digits: hexadecimal, in lower case.
        where: publication.
    """

    algorithm: str
    digits: str
    where: str


@dataclass(frozen=True)
class Weights:
    """One set of weights of a model.

    Attributes:
        location: ``bundled:FILE`` for a file of ``zoo/bundled``, or the URL of an official file.
        sha256: hash of that file; ``None`` where nobody could verify it yet: the first use then records it.
        note: a sentence about the training, for the card.
        hash_prefix: what the authors publish of the file's hash, verified at every download; ``None`` if nothing.
        licence: SPDX name.
        licence_note: what a user must know besides, where the authors say different things.
        source: project that published the weights.
        preprocessing: transform that the weights were evaluated with.
        padding: see ``Architecture``.
        kind: format of the official file, a key of ``zoo.convert.convert.KINDS``; ``None`` for a bundled file.
        max_megabytes: size limit of the download in 10**6 bytes.
        scores: published scores of these weights.
        selection: how the recipe was chosen and on which images, for the card.
        other_link: another address of the same file, and what is different about it.
    """

    location: str
    sha256: str | None
    licence: str
    source: str
    preprocessing: Preprocessing = IMAGENET_224
    padding: str = "symmetric"
    kind: str | None = None
    max_megabytes: int = 1000
    scores: tuple[Score, ...] = ()
    selection: str = ""
    note: str = ""
    hash_prefix: HashPrefix | None = None
    licence_note: str = ""
    other_link: str = ""

    @property
    def bundled(self) -> bool:
        """True if the file ships with the package."""
        return self.location.startswith("bundled:")


@dataclass(frozen=True)
class ModelSpec:
    """One name of the zoo.

    Attributes:
        method: ``byol``, ``simsiam``, ``simclr``, ``moco`` (v2), ``mocov1``, ``swav``, ``deepclusterv2``, ``selav2`` or
            ``supervised``.
        architecture: key of ``ARCHITECTURES``.
        recipe: ``zoo-train`` recipe that produces such weights; empty where there is none.
        weights: released weights by tag; the first tag is the default.
        scores: published scores of this architecture and method that belong to none of these weights.
    """

    name: str
    method: str
    architecture: str
    recipe: str
    weights: Mapping[str, Weights] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()

    @property
    def default_tag(self) -> str | None:
        """The tag that the bare name stands for; ``None`` without released weights."""
        return next(iter(self.weights), None)


LINEAR = "ImageNet linear top-1"
_BYOL_PAPER, _SIMSIAM_PAPER = "arXiv 2006.07733", "arXiv 2011.10566"


def _deepmind(file: str, megabytes: int, *scores: Score, part: str = "") -> Weights:
    return Weights(
        f"https://storage.googleapis.com/deepmind-byol/checkpoints/{file}.pkl",
        None,
        "CC-BY-NC-4.0",
        f"google-deepmind/deepmind-research, byol{part}",
        BYOL_224,
        padding="same",
        kind="deepmind-byol",
        max_megabytes=megabytes,
        scores=scores,
    )


def _deepmind_ablations() -> dict[str, Weights]:
    """The twelve files of the ablations with the means of [B] tables 16 and 17; one of three seeds was released."""
    protocol = f"{LINEAR}, 300 epochs, mean of three seeds; one of them released"
    part = ", ablations of the paper's figure 3: 300 epochs"
    # Scores of the paper's tables 16 and 17.
    scores = {
        "baseline": Score(72.5, protocol, f"{_BYOL_PAPER}, table 16"),
        "batchsize_2048": Score(72.4, protocol, f"{_BYOL_PAPER}, table 16"),
        "batchsize_1024": Score(72.2, protocol, f"{_BYOL_PAPER}, table 16"),
        "batchsize_512": Score(72.2, protocol, f"{_BYOL_PAPER}, table 16"),
        "batchsize_256": Score(71.8, protocol, f"{_BYOL_PAPER}, table 16"),
        "batchsize_128": Score(69.6, protocol, f"{_BYOL_PAPER}, table 16", spread=0.5),
        "batchsize_64": Score(59.7, protocol, f"{_BYOL_PAPER}, table 16", spread=1.5),
        "no_grayscale": Score(70.3, protocol, f"{_BYOL_PAPER}, table 17"),
        "no_color": Score(63.4, protocol, f"{_BYOL_PAPER}, table 17", spread=0.7),
        "crop_and_blur_only": Score(61.1, protocol, f"{_BYOL_PAPER}, table 17", spread=0.3),
        "crop_only": Score(59.4, protocol, f"{_BYOL_PAPER}, table 17", spread=0.3),
        "crop_and_color_only": Score(70.7, protocol, f"{_BYOL_PAPER}, table 17"),
    }
    return {
        f"deepmind_in1k_{name}": _deepmind(f"ablations/res50x1_{name}", 1200, score, part=part)
        for name, score in scores.items()
    }


def _simsiam(folder: str, score: float, *, where: str = "README", epochs: int = 100) -> Weights:
    checkpoint = f"checkpoint_{epochs - 1:04d}.pth.tar"
    return Weights(
        f"https://dl.fbaipublicfiles.com/simsiam/models/{folder}/pretrain/{checkpoint}",
        None,
        "CC-BY-NC-4.0",
        "facebookresearch/simsiam",
        FAIR_224,
        kind="simsiam",
        scores=(Score(score, LINEAR, f"facebookresearch/simsiam, {where}"),),
    )


_MOCO_README = "facebookresearch/moco, README"


def _moco(version: str, epochs: int, score: float, md5: str) -> Weights:
    name = f"moco_{version}_{epochs}ep"
    return Weights(
        f"https://dl.fbaipublicfiles.com/moco/moco_checkpoints/{name}/{name}_pretrain.pth.tar",
        None,
        "MIT",
        "facebookresearch/moco",
        FAIR_224,
        kind="moco",
        scores=(Score(score, LINEAR, _MOCO_README),),
        hash_prefix=HashPrefix("md5", md5, _MOCO_README),
        licence_note="Its authors say two things: the repository's LICENSE file is MIT (since commit 7397dfe of "
        '2023-01-18, "Relicense MoCo under MIT"), while its README still says CC-BY-NC 4.0. The last commit that has '
        "both files is 132aea9; later ones are empty.",
    )


def _swav(file: str, megabytes: int, score: float) -> Weights:
    """One file of the SwAV repository, which also holds DeepCluster v2 and SeLa v2."""
    return Weights(
        f"https://dl.fbaipublicfiles.com/deepcluster/{file}_pretrain.pth.tar",
        None,
        "CC-BY-NC-4.0",
        "facebookresearch/swav",
        SWAV_224,
        kind="swav",
        max_megabytes=megabytes,
        scores=(Score(score, LINEAR, "facebookresearch/swav, README"),),
    )


def _simclr(width: int, megabytes: int, score: float) -> dict[str, Weights]:
    """Version 1; the README's version 2 is not here, see ``zoo.convert.simclr``."""
    bucket, file = "simclr-gcs/checkpoints", f"ResNet50_{width}x.zip"
    weights = Weights(
        f"https://storage.googleapis.com/{bucket}/{file}",  # serves public files without a login
        None,
        "Apache-2.0",
        "google-research/simclr, v1",
        SIMCLR_224,
        padding="same-pool",
        kind="simclr",
        max_megabytes=megabytes,
        scores=(Score(score, LINEAR, "google-research/simclr, README"),),
        other_link=f"https://storage.cloud.google.com/{bucket}/{file} (the README's link; asks for a Google login)",
    )
    return {"google_in1k": weights}


_TOP1 = "ImageNet top-1 of its own classifier"
_RSB = "arXiv 2110.00476"
_OTHER_RECIPE = "A later, stronger recipe than that of the supervised baselines in the papers of BYOL and SimSiam."
_IN_THE_NAME = "the file's name"


def _torchvision(version: str, digits: str, resize: int, top1: float, top5: float, note: str) -> Weights:
    where = f"torchvision, ResNet50_Weights.IMAGENET1K_{version}"
    return Weights(
        f"https://download.pytorch.org/models/resnet50-{digits}.pth",
        None,
        "BSD-3-Clause",
        where,
        replace(FAIR_224, resize=resize),
        kind="torch",
        scores=(Score(top1, _TOP1, where), Score(top5, "ImageNet top-5 of its own classifier", where)),
        note=note,
        hash_prefix=HashPrefix("sha256", digits, _IN_THE_NAME),
    )


def _timm(file: str, digits: str, owner: str, resize: int, *scores: Score) -> Weights:
    """One file of the recipes A1 to A3; ``owner`` is the one in the address that timm has."""
    return Weights(
        f"https://github.com/{owner}/pytorch-image-models/releases/download/v0.1-rsb-weights/{file}-{digits}.pth",
        None,
        "Apache-2.0",
        f"huggingface/pytorch-image-models (timm), {_RSB}",
        replace(IMAGENET_224, resize=resize),
        kind="torch",
        scores=scores,
        note=_OTHER_RECIPE,
        hash_prefix=HashPrefix("sha256", digits, _IN_THE_NAME),
    )


_CROP_95 = 235  # timm's transform: floor(224 / .95)


DEFAULT_MODEL = "simclr_r18_mini"  # ships with the package
FOR_REAL_WORK = ("mocov2_r50", "byol_r50")
"""What users of the default network are told to take: a good one for any use, and the paper's for research."""

MODELS: Mapping[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "simclr_r18_mini",
            "simclr",
            "r18",
            "simclr_r18_tin32",
            {
                "tin32": Weights(
                    "bundled:simclr_r18_mini.tin32.safetensors",
                    "6a286db2c5c6c58cd1dde2cbb6e9c9606021e5d9bad268cb565e261972938ee6",
                    "Apache-2.0",
                    "this project, trained on Tiny-ImageNet",
                    Preprocessing(input_size=40, resize=40),
                    selection="BYOL and SimCLR were compared on eight runs of five minutes at most (SimSiam was no "
                    "better than BYOL in earlier ones), by kNN on 2,000 of 8,000 training images of CIFAR-10 (JPEG) "
                    "with the others as the bank: a random network 34.4; BYOL after 666 steps 32.6, with ten times "
                    "the predictor's rate 29.6, with negatives 34.3 and 34.8; SimCLR after 523 steps 37.0. Views "
                    "and length were then set by judgement, without another run, and the crop of 40 pixels among "
                    "32, 40 and 48 by kNN on training images of all three data sets; the test scores at 48 pixels"
                    " (kNN on CIFAR-10 (JPEG) 52.5) had been seen by then. Zero-initialised residuals come from "
                    "earlier runs that had looked at test images (see byol_r18_mini). One seed.",
                )
            },
        ),
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
                    selection="The settings come from some eighteen short runs that were compared by kNN on the first "
                    "1,500 to 3,000 test images of CIFAR-10 (JPEG), some of them also on 2,000 of Tiny-ImageNet's "
                    "validation images: both scores are optimistic by that choice. Flowers-17 was looked at once, at "
                    "the end. The crop of 48 pixels was chosen on training images. Nothing was chosen for the random "
                    "network. One seed.",
                )
            },
        ),
        ModelSpec("byol_r18", "byol", "r18", "byol_r18_in1k_300ep"),
        ModelSpec(
            "byol_r50",
            "byol",
            "r50",
            "byol_r50_in1k_1000ep",
            {
                "deepmind_in1k": _deepmind(
                    "pretrain_res50x1", 1200, Score(74.4, LINEAR, "google-deepmind/deepmind-research, byol, README")
                ),
                **_deepmind_ablations(),
            },
            (Score(74.3, LINEAR, _BYOL_PAPER), Score(72.5, f"{LINEAR}, 300 epochs", _BYOL_PAPER)),
        ),
        ModelSpec("byol_r50x2", "byol", "r50x2", "byol_r50x2_in1k_1000ep", scores=(Score(77.4, LINEAR, _BYOL_PAPER),)),
        ModelSpec("byol_r50x4", "byol", "r50x4", "byol_r50x4_in1k_1000ep", scores=(Score(78.6, LINEAR, _BYOL_PAPER),)),
        ModelSpec(
            "byol_r200",
            "byol",
            "r200",
            "byol_r200_in1k_1000ep",
            scores=(Score(77.8, LINEAR, f"{_BYOL_PAPER}, table 9"),),
        ),
        ModelSpec(
            "byol_r200x2",
            "byol",
            "r200x2",
            "byol_r200x2_in1k_1000ep",
            {
                "deepmind_in1k": _deepmind(
                    "pretrain_res200x2", 6000, Score(79.6, LINEAR, "google-deepmind/deepmind-research, byol, README")
                )
            },
        ),
        ModelSpec("simsiam_r18", "simsiam", "r18", "simsiam_r18_in1k_100ep"),
        ModelSpec(
            "simsiam_r50",
            "simsiam",
            "r50",
            "simsiam_r50_in1k_100ep",
            {
                "fair_in1k_100ep": _simsiam("100ep", 68.1),
                "fair_in1k_100ep_256bs": _simsiam("100ep-256bs", 68.3),
                "fair_in1k_200ep_256bs": _simsiam("200ep-256bs", 69.8, where="issue 18", epochs=200),
            },
            tuple(
                Score(value, f"{LINEAR}, {epochs} epochs", _SIMSIAM_PAPER)
                for epochs, value in ((100, 68.1), (200, 70.0), (400, 70.8), (800, 71.3))
            ),
        ),
        ModelSpec("simsiam_r50x2", "simsiam", "r50x2", "simsiam_r50x2_in1k_100ep"),
        ModelSpec("simsiam_r50x4", "simsiam", "r50x4", "simsiam_r50x4_in1k_100ep"),
        ModelSpec("simsiam_r200", "simsiam", "r200", "simsiam_r200_in1k_100ep"),
        ModelSpec("simsiam_r200x2", "simsiam", "r200x2", "simsiam_r200x2_in1k_100ep"),
        ModelSpec("simclr_r50", "simclr", "r50", "simclr_r50_in1k_1000ep", _simclr(1, 1000, 69.1)),
        ModelSpec("simclr_r50x2", "simclr", "r50x2", "simclr_r50x2_in1k_1000ep", _simclr(2, 4000, 74.2)),
        ModelSpec("simclr_r50x4", "simclr", "r50x4", "simclr_r50x4_in1k_1000ep", _simclr(4, 12000, 76.6)),
        ModelSpec(
            "mocov2_r50",
            "moco",
            "r50",
            "mocov2_r50_in1k_800ep",
            {
                "fair_in1k_800ep": _moco("v2", 800, 71.1, "a04e12f8"),
                "fair_in1k_200ep": _moco("v2", 200, 67.7, "59fd9945"),
            },
        ),
        ModelSpec("mocov1_r50", "mocov1", "r50", "", {"fair_in1k_200ep": _moco("v1", 200, 60.6, "b251726a")}),
        ModelSpec(
            "swav_r50",
            "swav",
            "r50",
            "swav_r50_in1k_800ep",
            {
                "fair_in1k_800ep": _swav("swav_800ep", 1000, 75.3),
                "fair_in1k_400ep": _swav("swav_400ep", 1000, 74.6),
                "fair_in1k_200ep": _swav("swav_200ep", 1000, 73.9),
                "fair_in1k_100ep": _swav("swav_100ep", 1000, 72.1),
                "fair_in1k_400ep_256bs": _swav("swav_400ep_bs256", 1000, 74.3),
                "fair_in1k_200ep_256bs": _swav("swav_200ep_bs256", 1000, 72.7),
                "fair_in1k_400ep_2x224": _swav("swav_400ep_2x224", 1000, 70.1),
            },
        ),
        ModelSpec(
            "swav_r50x2",
            "swav",
            "r50x2",
            "swav_r50x2_in1k_400ep",
            {"fair_in1k_400ep": _swav("swav_RN50w2_400ep", 2000, 77.3)},
        ),
        ModelSpec(
            "swav_r50x4",
            "swav",
            "r50x4",
            "swav_r50x4_in1k_400ep",
            {"fair_in1k_400ep": _swav("swav_RN50w4_400ep", 5000, 77.9)},
        ),
        ModelSpec(
            "swav_r50x5",
            "swav",
            "r50x5",
            "",
            {"fair_in1k_400ep": _swav("swav_RN50w5_400ep", 8000, 78.5)},
        ),
        ModelSpec(
            "deepclusterv2_r50",
            "deepclusterv2",
            "r50",
            "",
            {
                "fair_in1k_800ep": _swav("deepclusterv2_800ep", 1000, 75.2),
                "fair_in1k_400ep": _swav("deepclusterv2_400ep", 1000, 74.3),
                "fair_in1k_400ep_2x224": _swav("deepclusterv2_400ep_2x224", 1000, 70.2),
            },
        ),
        ModelSpec(
            "selav2_r50",
            "selav2",
            "r50",
            "",
            {
                "fair_in1k_400ep": _swav("selav2_400ep", 1000, 71.8),
                "fair_in1k_400ep_2x224": _swav("selav2_400ep_2x224", 1000, 67.2),
            },
        ),
        ModelSpec(
            "supervised_r50",
            "supervised",
            "r50",
            "supervised_r50_in1k_90ep",
            {
                "tv_v1": _torchvision(
                    "V1",
                    "0676ba61",
                    256,
                    76.13,
                    92.862,
                    "The papers of MoCo and SimSiam give 76.1 for a supervised ResNet-50, which these weights match; "
                    "those of SimCLR and BYOL trained their own (76.5 and 76.4).",
                ),
                "tv_v2": _torchvision("V2", "11ad3fa6", 232, 80.858, 95.434, _OTHER_RECIPE),
                "timm_a1": _timm(
                    "resnet50_a1_0", "14fe96d1", "rwightman", _CROP_95, Score(80.4, f"{_TOP1}, at 224", _RSB)
                ),
                "timm_a2": _timm("resnet50_a2_0", "a2746f79", "huggingface", _CROP_95),
                "timm_a3": _timm(
                    "resnet50_a3_0", "59cae1ef", "huggingface", _CROP_95, Score(78.1, f"{_TOP1}, at 224", _RSB)
                ),
                "timm_a1h": _timm("resnet50_a1h2_176", "001a1197", "huggingface", 224),
            },
        ),
    )
}


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``byol_r50.deepmind_in1k`` into (``byol_r50``, ``deepmind_in1k``); without a tag it is ``None``."""
    base, _, tag = name.partition(".")
    return base, tag or None


def find(name: str) -> ModelSpec:
    """Return the entry of ``NAME`` or ``NAME.tag``.

    Raises:
        UserError: the name is unknown; the message gives the closest one.
    """
    base, _ = split_name(name)
    if base in MODELS:
        return MODELS[base]
    closest = closest_name(base, MODELS, cutoff=0.4)
    hint = f"did you mean {closest}? " if closest else ""
    raise UserError(f"unknown model {name!r}: {hint}`zoo list` shows all names")
