"""SimCLR: Google's weights of version 1, and VISSL's."""

from __future__ import annotations

from zoo.models.registry.sources import vissl
from zoo.models.registry.weights import LINEAR, SIMCLR_224, ModelSpec, Score, Weights


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


MODELS = (
    ModelSpec(
        "simclr_r50",
        "simclr",
        "r50",
        "simclr_r50_in1k_1000ep",
        {
            **_simclr(1, 1000, 69.1),
            "vissl_in1k_1000ep": vissl("simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7", 68.8, phase=999),
            "vissl_in1k_800ep": vissl("simclr_rn50_800ep_simclr_8node_resnet_16_07_20.7e8feed1", 69.68, phase=799),
            "vissl_in1k_400ep": vissl("simclr_rn50_400ep_simclr_8node_resnet_16_07_20.36b338ef", 67.71, phase=399),
            "vissl_in1k_200ep": vissl("simclr_rn50_200ep_simclr_8node_resnet_16_07_20.a816c0ef", 66.61, phase=199),
            "vissl_in1k_100ep": vissl("simclr_rn50_100ep_simclr_8node_resnet_16_07_20.8edb093e", 64.4, phase=99),
        },
    ),
    ModelSpec(
        "simclr_r50x2",
        "simclr",
        "r50x2",
        "simclr_r50x2_in1k_1000ep",
        {
            **_simclr(2, 4000, 74.2),
            "vissl_in1k_1000ep": vissl(
                "simclr_rn50w2_1000ep_simclr_8node_resnet_16_07_20.e1e3bbf0", 73.84, phase=999, megabytes=3000
            ),
            "vissl_in1k_100ep": vissl(
                "simclr_rn50w2_100ep_simclr_8node_resnet_16_07_20.05b37ec3", 69.82, phase=99, megabytes=3000
            ),
        },
    ),
    ModelSpec(
        "simclr_r50x4",
        "simclr",
        "r50x4",
        "simclr_r50x4_in1k_1000ep",
        {
            **_simclr(4, 12000, 76.6),
            "vissl_in1k_1000ep": vissl(
                "simclr_rn50w4_1000ep_bs32_16node_simclr_8node_resnet_28_07_20.9e20b0ae",
                71.61,
                phase=999,
                megabytes=8000,
            ),
        },
    ),
    ModelSpec(
        "simclr_r101",
        "simclr",
        "r101",
        "",
        {
            "vissl_in1k_1000ep": vissl("simclr_rn101_1000ep_simclr_8node_resnet_16_07_20.35063cea", 71.56, phase=999),
            "vissl_in1k_100ep": vissl("simclr_rn101_100ep_simclr_8node_resnet_16_07_20.1ff6cb4b", 62.76, phase=99),
        },
    ),
)
