"""Networks trained with labels, as baselines."""

from __future__ import annotations

from dataclasses import replace

from zoo.models.registry.weights import FAIR_224, IMAGENET_224, HashPrefix, ModelSpec, Score, Weights

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
        licence_note="Its README says that weights may have terms of their own, derived from the data.",
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
        licence_note="Its README says that one should assume that ImageNet's terms, non-commercial research, apply to "
        "the weights, and advises to ask a lawyer before a product uses them.",
    )


_CROP_95 = 235  # timm's transform: floor(224 / .95)


MODELS = (
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
            "timm_a1": _timm("resnet50_a1_0", "14fe96d1", "rwightman", _CROP_95, Score(80.4, f"{_TOP1}, at 224", _RSB)),
            "timm_a2": _timm("resnet50_a2_0", "a2746f79", "huggingface", _CROP_95),
            "timm_a3": _timm(
                "resnet50_a3_0", "59cae1ef", "huggingface", _CROP_95, Score(78.1, f"{_TOP1}, at 224", _RSB)
            ),
            "timm_a1h": _timm("resnet50_a1h2_176", "001a1197", "huggingface", 224),
        },
    ),
)
