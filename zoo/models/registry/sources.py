"""Files of repositories that hold many methods: VISSL's model zoo, PyContrast, and CMC's."""

from __future__ import annotations

from zoo.models.registry.weights import FAIR_224, LINEAR, Score, Weights

_VISSL = "https://dl.fbaipublicfiles.com/vissl/model_zoo"
_PYCONTRAST = "https://www.dropbox.com/sh/87d24jqsl6ra7t2/AABdDXZZBTnMQCBrg1yrQKVCa?dl=0"
_PYCONTRAST_DEEPER = "https://www.dropbox.com/sh/fit1szeqf4kiwob/AADIgPT4EItaMOtGCunBfWXCa?dl=0"
_CMC = "https://www.dropbox.com/sh/5k4t77mt4011gyr/AABkBvKm2bGNNut0m6bLMK84a?dl=0"


def vissl(
    folder: str,
    score: float,
    *,
    phase: int | None = None,
    where: str = "MODEL_ZOO.md",
    data: str = "imagenet",
    note: str = "",
    licence_note: str = "",
    megabytes: int = 1500,
) -> Weights:
    """One file of VISSL at 09270ed, whose issue 281 asks for the licence of its weights and is closed with MIT.

    It resizes with PIL's bilinear filter and normalises by ImageNet.

    The pixels are in ``eval_resnet_8gpu_transfer_in1k_linear.yaml``; the networks converted from Caffe2 take RGB too:
    ``extra_scripts/README.md:811-847`` turns their first convolution from BGR.

    Args:
        folder: path below VISSL's model zoo, of the file, or of its folder if ``phase`` is given.
        phase: number in ``model_final_checkpoint_phase{N}.torch``.
    """
    file = folder if phase is None else f"{folder}/model_final_checkpoint_phase{phase}.torch"
    return Weights(
        f"{_VISSL}/{file}",
        None,
        "MIT",
        f"facebookresearch/vissl, {where}",
        FAIR_224,
        kind="vissl",
        max_megabytes=megabytes,
        scores=(Score(score, LINEAR, f"facebookresearch/vissl, {where}"),),
        note=note,
        licence_note=licence_note,
        data=data,
    )


def pycontrast(file: str, score: float | None, *, deeper: bool = False, note: str = "") -> Weights:
    """One file of PyContrast at 84f94ea (``docs/MODEL_ZOO.md``; scores in its ``README.md``).

    ``learning/linear_trainer.py`` resizes to 256 and crops 224; colours are converted by the network.
    """
    return _from_dropbox(
        _PYCONTRAST_DEEPER if deeper else _PYCONTRAST,
        file,
        "HobbitLong/PyContrast",
        "pycontrast",
        () if score is None else (Score(score, LINEAR, "HobbitLong/PyContrast, README"),),
        note,
    )


def cmc(file: str, *scores: Score, note: str) -> Weights:
    """One file of HobbitLong/CMC at 7b227be (``README.md``, pretrained models); pixels of ``LinearProbing.py``."""
    return _from_dropbox(_CMC, file, "HobbitLong/CMC", "cmc", scores, note)


def _from_dropbox(folder: str, file: str, source: str, kind: str, scores: tuple[Score, ...], note: str) -> Weights:
    return Weights(
        f"{folder}#{file}",
        None,
        "BSD-2-Clause",
        source,
        FAIR_224,
        kind=kind,
        max_megabytes=3000,
        scores=scores,
        note=note,
        by_hand=f"{file} lies in a shared folder that only a browser opens",
    )
