"""Barlow Twins and VICReg: Facebook's weights, and VISSL's of Barlow Twins.

Both evaluate with torchvision's ``Resize(256)``, which is bilinear (``evaluate.py:132`` and ``evaluate.py:204``).
"""

from __future__ import annotations

from zoo.models.registry.sources import vissl
from zoo.models.registry.weights import FAIR_224, LINEAR, ModelSpec, Score, Weights

_BARLOW = "facebookresearch/barlowtwins"


def _barlow_twins() -> Weights:
    """``README.md:34`` at 8e8d284; ``hubconf.py`` names another address."""
    return Weights(
        "https://dl.fbaipublicfiles.com/barlowtwins/ljng/resnet50.pth",
        None,
        "MIT",
        _BARLOW,
        FAIR_224,
        kind="barlowtwins",
        scores=(
            Score(73.5, LINEAR, f"{_BARLOW}, README"),
            Score(91.0, LINEAR.replace("top-1", "top-5"), f"{_BARLOW}, README"),
        ),
        other_link="https://dl.fbaipublicfiles.com/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth "
        "(of hubconf.py; not compared)",
    )


def _vicreg(network: str, megabytes: int, score: float) -> dict[str, Weights]:
    """``README.md:34-48`` at 4e12602."""
    weights = Weights(
        f"https://dl.fbaipublicfiles.com/vicreg/{network}.pth",
        None,
        "MIT",
        "facebookresearch/vicreg",
        FAIR_224,
        kind="vicreg",
        max_megabytes=megabytes,
        scores=(Score(score, LINEAR, "facebookresearch/vicreg, README"),),
    )
    return {"fair_in1k_1000ep": weights}


MODELS = (
    ModelSpec(
        "barlowtwins_r50",
        "barlowtwins",
        "r50",
        "barlowtwins_r50_in1k_1000ep",
        {
            "fair_in1k_1000ep": _barlow_twins(),
            "vissl_in1k_1000ep": vissl(
                "barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch", 71.80, megabytes=3000
            ),
            "vissl_in1k_300ep": vissl(
                "barlow_twins/barlow_twins_32gpus_4node_imagenet1k_300ep_resnet50.torch", 70.75, megabytes=3000
            ),
        },
    ),
    ModelSpec("vicreg_r50", "vicreg", "r50", "vicreg_r50_in1k_1000ep", _vicreg("resnet50", 1000, 73.2)),
    ModelSpec("vicreg_r50x2", "vicreg", "r50x2", "", _vicreg("resnet50x2", 2000, 75.5)),
    ModelSpec("vicreg_r200x2", "vicreg", "r200x2", "", _vicreg("resnet200x2", 5000, 77.3)),
)
