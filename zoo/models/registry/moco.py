"""MoCo v1 to v3, and DenseCL, which has MoCo v2 under it."""

from __future__ import annotations

from zoo.models.registry.sources import cmc, pycontrast, vissl
from zoo.models.registry.weights import FAIR_224, LINEAR, HashPrefix, ModelSpec, Score, Weights

_MOCO_README, _MOCO_V1 = "facebookresearch/moco, README", "arXiv 1911.05722"


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


def _moco_v3(epochs: int, score: float) -> Weights:
    """``CONFIG.md:79-93`` at c349e6e; pixels of ``main_lincls.py:290``."""
    name = f"r-50-{epochs}ep"
    return Weights(
        f"https://dl.fbaipublicfiles.com/moco-v3/{name}/{name}.pth.tar",
        None,
        "CC-BY-NC-4.0",
        "facebookresearch/moco-v3",
        FAIR_224,
        kind="mocov3",
        max_megabytes=2000,
        scores=(Score(score, LINEAR, "facebookresearch/moco-v3, README"),),
    )


def _densecl(file: str, detection: float, segmentation: float, *, data: str = "imagenet") -> Weights:
    """``README.md:34-38`` at b64bbb6, which gives no ImageNet score.

    Its earlier host, ``cloudstor.aarnet.edu.au``, is dead: the README now has these addresses.
    """
    where = "WXinlong/DenseCL, README"
    return Weights(
        f"https://huggingface.co/xinlongwang/DenseCL/resolve/main/densecl_{file}.pth?download=true",
        None,
        "GPL-3.0",
        "WXinlong/DenseCL",
        FAIR_224,
        kind="densecl",
        scores=(
            Score(detection, "VOC detection AP, Faster R-CNN", where),
            Score(segmentation, "VOC segmentation mIoU, FCN", where),
        ),
        licence_note="This is the LICENSE file of the repository; nothing else is said of the weights.",
        data=data,
    )


MODELS = (
    ModelSpec(
        "mocov2_r50",
        "moco",
        "r50",
        "mocov2_r50_in1k_800ep",
        {
            "fair_in1k_800ep": _moco("v2", 800, 71.1, "a04e12f8"),
            "fair_in1k_200ep": _moco("v2", 200, 67.7, "59fd9945"),
            "pycontrast_in1k_200ep": pycontrast("MoCov2.pth", 67.5),
            "vissl_in1k_200ep": vissl("moco_v2_1node_lr.03_step_b32_zero_init", 66.4, phase=199),
        },
    ),
    ModelSpec(
        "mocov1_r50",
        "mocov1",
        "r50",
        "mocov1_r50_in1k_200ep",
        {
            "fair_in1k_200ep": _moco("v1", 200, 60.6, "b251726a"),
            "pycontrast_in1k_200ep": pycontrast("MoCo.pth", 60.8),
            "hobbitlong_in1k_200ep": cmc(
                "MoCo_softmax_16384_epoch200.pth",
                Score(59.4, LINEAR, "HobbitLong/CMC, README"),
                note="16,384 negatives, on 4 GPUs. The README does not name the file: the name is that of "
                "HobbitLong/CMC, issue 35, whose author measured 57.3 with it.",
            ),
        },
    ),
    ModelSpec("mocov1_r50x2", "mocov1", "r50x2", "mocov1_r50x2_in1k_200ep", scores=(Score(65.4, LINEAR, _MOCO_V1),)),
    ModelSpec("mocov1_r50x4", "mocov1", "r50x4", "mocov1_r50x4_in1k_200ep", scores=(Score(68.6, LINEAR, _MOCO_V1),)),
    ModelSpec(
        "mocov3_r50",
        "mocov3",
        "r50",
        "mocov3_r50_in1k_1000ep",
        {
            "fair_in1k_1000ep": _moco_v3(1000, 74.6),
            "fair_in1k_300ep": _moco_v3(300, 72.8),
            "fair_in1k_100ep": _moco_v3(100, 68.9),
        },
    ),
    ModelSpec(
        "densecl_r50",
        "densecl",
        "r50",
        "densecl_r50_in1k_200ep",
        {
            "wxinlong_in1k_200ep": _densecl("r50_imagenet_200ep", 58.7, 69.4),
            "wxinlong_coco_1600ep": _densecl("r50_coco_1600ep", 57.2, 68.0, data="coco"),
            "wxinlong_coco_800ep": _densecl("r50_coco_800ep", 56.7, 67.5, data="coco"),
        },
    ),
    ModelSpec(
        "densecl_r101",
        "densecl",
        "r101",
        "",
        {"wxinlong_in1k_200ep": _densecl("r101_imagenet_200ep", 61.3, 74.1)},
    ),
)
