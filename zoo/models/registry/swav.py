"""SwAV, and DeepCluster v2 and SeLa v2 of the same repository."""

from __future__ import annotations

from zoo.models.registry.sources import vissl
from zoo.models.registry.weights import LINEAR, SWAV_224, ModelSpec, Score, Weights

_VISSL = "facebookresearch/vissl, MODEL_ZOO.md"


def _swav(
    file: str, megabytes: int, score: float, by_vissl: float | None = None, *, folder_of_vissl: str = ""
) -> Weights:
    """One file of the SwAV repository, which also holds DeepCluster v2 and SeLa v2.

    Args:
        by_vissl: the score that VISSL measured of its own copy.
        folder_of_vissl: where VISSL's copy lies in its model zoo.
    """
    copy = f"{folder_of_vissl}{file}_pretrain.pth.tar"
    also = f"https://dl.fbaipublicfiles.com/vissl/model_zoo/{copy} (VISSL's copy; not compared)"
    by_others = () if by_vissl is None else (Score(by_vissl, f"{LINEAR}, by VISSL", _VISSL),)
    return Weights(
        f"https://dl.fbaipublicfiles.com/deepcluster/{file}_pretrain.pth.tar",
        None,
        "CC-BY-NC-4.0",
        "facebookresearch/swav",
        SWAV_224,
        kind="swav",
        max_megabytes=megabytes,
        scores=(Score(score, LINEAR, "facebookresearch/swav, README"), *by_others),
        other_link="" if by_vissl is None else also,
    )


MODELS = (
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
            "vissl_in1k_800ep": vissl("swav_in1k_rn50_800ep_swav_8node_resnet_27_07_20.a0a6b676", 74.92, phase=799),
            "vissl_in1k_400ep": vissl("swav_in1k_rn50_400ep_swav_8node_resnet_27_07_20.a5990fc9", 74.81, phase=399),
            "vissl_in1k_200ep": vissl("swav_in1k_rn50_200ep_swav_8node_resnet_27_07_20.bd595bb0", 73.85, phase=199),
            "vissl_in1k_100ep": vissl("swav_in1k_rn50_100ep_swav_8node_resnet_27_07_20.7e6fc6bf", 71.99, phase=99),
            "vissl_in1k_400ep_256bs": vissl(
                "swav_4gpu_bs64_400ep_2x224_6x96_queue_swav_8node_resnet_28_07_20.5e967ca0", 74.3, phase=399
            ),
            "vissl_in1k_200ep_256bs": vissl(
                "swav_4gpu_bs64_200ep_2x224_6x96_queue_swav_8node_resnet_28_07_20.a8f2c735", 73.07, phase=199
            ),
            "vissl_in1k_400ep_2x224": vissl(
                "swav_8node_2x224_rn50_in1k_swav_8node_resnet_30_07_20.c8fd7169", 69.53, phase=399
            ),
        },
    ),
    ModelSpec(
        "swav_r50x2",
        "swav",
        "r50x2",
        "swav_r50x2_in1k_400ep",
        {
            "fair_in1k_400ep": _swav("swav_RN50w2_400ep", 2000, 77.3),
            "vissl_in1k_400ep": vissl(
                "swav_rn50w2_in1k_bs32_16node_400ep_swav_8node_resnet_30_07_20.93563e51",
                77.01,
                phase=399,
                megabytes=3000,
            ),
        },
    ),
    ModelSpec(
        "swav_r50x4",
        "swav",
        "r50x4",
        "swav_r50x4_in1k_400ep",
        {
            "fair_in1k_400ep": _swav("swav_RN50w4_400ep", 5000, 77.9),
            "vissl_in1k_400ep": vissl(
                "swav_rn50w4_in1k_bs40_8node_400ep_swav_8node_resnet_30_07_20.1736135b",
                77.03,
                phase=399,
                megabytes=8000,
            ),
        },
    ),
    ModelSpec(
        "swav_r50x5",
        "swav",
        "r50x5",
        "",
        # VISSL's table has no other file of this width; its row says 300 epochs, the file's name 400
        {"fair_in1k_400ep": _swav("swav_RN50w5_400ep", 8000, 78.5, 78.5, folder_of_vissl="swav_rn50w5/")},
    ),
    ModelSpec(
        "deepclusterv2_r50",
        "deepclusterv2",
        "r50",
        "",
        {
            "fair_in1k_800ep": _swav("deepclusterv2_800ep", 1000, 75.2, 75.18),
            "fair_in1k_400ep": _swav("deepclusterv2_400ep", 1000, 74.3, 74.32),
            "fair_in1k_400ep_2x224": _swav("deepclusterv2_400ep_2x224", 1000, 70.2, 70.01),
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
)
