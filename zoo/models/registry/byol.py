"""BYOL: DeepMind's weights."""

from __future__ import annotations

from zoo.models.registry.weights import BYOL_224, LINEAR, ModelSpec, Score, Weights

_BYOL_PAPER = "arXiv 2006.07733"


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


MODELS = (
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
    ModelSpec(
        "byol_gn_r50", "byol_gn", "r50_gn", "byol_gn_r50_in1k_1000ep", scores=(Score(73.9, LINEAR, "arXiv 2010.10241"),)
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
)
