"""SimSiam: Facebook's weights."""

from __future__ import annotations

from zoo.models.registry.weights import FAIR_224, LINEAR, ModelSpec, Score, Weights

_SIMSIAM_PAPER = "arXiv 2011.10566"


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


MODELS = (
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
)
