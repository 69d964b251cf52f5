"""Pretext tasks of before: jigsaw puzzles, rotations, clusters of their features, as VISSL trained or converted them.

VISSL's networks of colorization take the lightness alone, its AlexNets, RegNets and vision transformers are no ResNets,
and its BYOL is DeepMind's r200x2, which is read from the original (MODEL_ZOO.md at 09270ed): they are not here.
"""

from __future__ import annotations

from zoo.models.registry.sources import vissl
from zoo.models.registry.weights import ModelSpec

_GOYAL = (
    "Of Goyal et al. 2019 (arXiv 1905.01235), converted from Caffe2 by VISSL; the first convolution was turned from "
    "BGR to RGB."
)
_TWO_LICENCES = (
    "Its authors say two things: VISSL, which distributes this file, is MIT; the README of the repository that it was "
    "converted from, facebookresearch/fair_self_supervision_benchmark, says CC-BY-NC 4.0."
)
_JIGSAW = "jigsaw_rn50_in1k_ep105_perm2k_jigsaw_8gpu_resnet"

MODELS = (
    ModelSpec(
        "jigsaw_r50",
        "jigsaw",
        "r50",
        "",
        {
            "vissl_in1k_105ep_100perm": vissl(
                f"{_JIGSAW}_17_07_20.db174a43", 48.57, phase=104, note="100 permutations of the patches."
            ),
            "vissl_in1k_105ep_2kperm": vissl(
                f"{_JIGSAW}_17_07_20.cccee144", 46.73, phase=104, note="2,000 permutations of the patches."
            ),
            "vissl_in1k_105ep_10kperm": vissl(
                f"{_JIGSAW}_20_07_20.3d706467", 48.11, phase=104, note="10,000 permutations of the patches."
            ),
            "vissl_in22k_105ep_2kperm": vissl(
                "converted_vissl_jigsaw_rn50_perm2k_in22k_8gpu_ep105.torch",
                44.84,
                data="imagenet-22k",
                note="2,000 permutations of the patches.",
            ),
            "goyal19_in1k": vissl(
                "converted_vissl_rn50_jigsaw_in1k_goyal19.torch", 46.58, note=_GOYAL, licence_note=_TWO_LICENCES
            ),
            "goyal19_in22k": vissl(
                "converted_vissl_rn50_jigsaw_in22k_goyal19.torch",
                53.09,
                data="imagenet-22k",
                note=_GOYAL,
                licence_note=_TWO_LICENCES,
            ),
            "goyal19_yfcc100m": vissl(
                "converted_vissl_rn50_jigsaw_yfcc100m_goyal19.torch",
                51.37,
                data="yfcc100m",
                note=_GOYAL,
                licence_note=_TWO_LICENCES,
            ),
        },
    ),
    ModelSpec(
        "rotnet_r50",
        "rotnet",
        "r50",
        "",
        {
            "vissl_in1k_105ep": vissl("rotnet_rn50_in1k_ep105_rotnet_8gpu_resnet_17_07_20.46bada9f", 48.2, phase=125),
            "vissl_in22k_105ep": vissl("converted_vissl_rn50_rotnet_in22k_ep105.torch", 54.89, data="imagenet-22k"),
        },
    ),
    ModelSpec(
        "clusterfit_r50",
        "clusterfit",
        "r50",
        "",
        {
            "vissl_in1k_105ep": vissl(
                "converted_vissl_rn50_rotnet_16kclusters_in1k_ep105.torch",
                53.63,
                note="16,000 clusters of the features of RotNet.",
            )
        },
    ),
)
