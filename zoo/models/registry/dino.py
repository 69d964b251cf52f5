"""DINO's ResNet-50: facebookresearch/dino at 7c446df, the teacher's network without its head."""

from __future__ import annotations

from dataclasses import replace

from zoo.models.registry.weights import FAIR_224, LINEAR, ModelSpec, Score, Weights

_README = "facebookresearch/dino, README"

MODELS = (
    ModelSpec(
        "dino_r50",
        "dino",
        "r50",
        "",
        {
            "fair_in1k": Weights(
                "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
                None,
                "Apache-2.0",
                "facebookresearch/dino",
                replace(FAIR_224, interpolation="bicubic"),  # eval_linear.py:66: interpolation=3
                kind="dino",
                scores=(Score(75.3, LINEAR, _README), Score(67.5, "ImageNet k-NN top-1", _README)),
            )
        },
    ),
)
