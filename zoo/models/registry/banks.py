"""Methods with a memory bank or patches: InstDisc (VISSL calls it NPID), PIRL, CMC, InfoMin, CPC v2, Local Aggregation.

Released, but not here:
- CMC's InstDisc lies in CMC's folder under a name that its README does not give; CMC's AlexNet is no ResNet.
"""

from __future__ import annotations

from zoo.models.registry.sources import cmc, pycontrast, vissl
from zoo.models.registry.weights import FAIR_224, LINEAR, ModelSpec, Score, Weights

_SEED = "arXiv 2006.07733, table"  # the paper of BYOL compares them
_PIRL = "projects/PIRL/README.md"
_BLOB = "https://frontiers.blob.core.windows.net/pretraining/checkpoints/pil_pretrained_models/lemniscate"


def _lemniscate(file: str, score: Score, instead: str) -> Weights:
    """One file of InstDisc's authors; their host stopped serving it (their issue 31, 2023-10-17)."""
    return Weights(
        f"{_BLOB}/{file}",
        None,
        "unknown",
        "zhirongw/lemniscate.pytorch",
        FAIR_224,
        kind="lemniscate",
        max_megabytes=1500,
        scores=(score,),
        licence_note="The repository has no licence file: ask its authors.",
        by_hand=f"its host no longer serves it (zhirongw/lemniscate.pytorch, issue 31 of 2023-10-17); {instead}",
    )


_README = "zhirongw/lemniscate.pytorch, README"
_NEIGHBOUR = "ImageNet nearest-neighbour top-1"
_LEMNISCATE = "instdisc_r50.vissl_in1k_200ep_lemniscate"
_RUN_2 = "Their second run: slightly better on COCO, slightly worse in ImageNet's linear evaluation, they say."
_WHICH = "The README gives this score and {} M parameters for a ResNeXt-{}: the one of this size is meant."
_CMC_RECIPE = "NCE with 4096 negatives, Lab, mixed precision, as the authors say of all their CMC weights."
_FAST_AUTO_AUGMENT = f"{_CMC_RECIPE} This one also with Fast AutoAugment, which adds .8 to 1 percent, they say."


def _infomin_resnext(architecture: str, file: str, score: float | None = None, note: str = "") -> ModelSpec:
    """One ResNeXt of PyContrast's ``docs/MODEL_ZOO.md``; its ``README.md`` scores one of each depth."""
    weights = pycontrast(f"InfoMin_{file}_e200.pth", score, deeper=True, note=note)
    return ModelSpec(f"infomin_{architecture}", "infomin", architecture, "", {"pycontrast_in1k_200ep": weights})


MODELS = (
    ModelSpec(
        "instdisc_r50",
        "instdisc",
        "r50",
        "instdisc_r50_in1k_200ep",
        {
            "vissl_in1k_200ep_lemniscate": vissl(
                "converted_vissl_rn50_npid_lemniscate_neg4k_stepLR_8gpu.torch",
                54.99,
                note="The authors' first ResNet-50 (zhirongw/lemniscate.pytorch: 4096 negatives, NCE), as VISSL "
                "converted and measured it.",
                licence_note="VISSL, which distributes this file, is MIT; the repository of those who trained it has "
                "no licence file.",
            ),
            "vissl_in1k_200ep": vissl("npid_1node_200ep_4kneg_npid_8gpu_resnet_23_07_20.9eb36512", 52.73, phase=199),
            "vissl_in1k_800ep_npidpp": vissl(
                "npid_pp/4node_800ep_32kneg_cosine_resnet_23_07_20.75432662",
                56.68,
                phase=799,
                note="NPID++ of PIRL's paper: 32,000 negatives, 800 epochs, cosine.",
            ),
            "pycontrast_in1k_200ep": pycontrast(
                "InsDis.pth", 59.5, note="Softmax with 65,536 negatives instead of NCE."
            ),
            "lemniscate_in1k_update": _lemniscate(
                "lemniscate_resnet50_update.pth",
                Score(58.5, LINEAR, _README),
                "instdisc_r50.pycontrast_in1k_200ep is the nearest",
            ),
            "lemniscate_in1k_200ep": _lemniscate(
                "lemniscate_resnet50.pth", Score(46.8, _NEIGHBOUR, _README), f"{_LEMNISCATE} is the same network"
            ),
        },
    ),
    ModelSpec(
        "instdisc_r50x2",
        "instdisc",
        "r50x2",
        "",
        {
            "vissl_in1k_800ep_npidpp": vissl(
                "npid_4node_800ep_32kneg_cosine_rn50w2_npid++_4nodes_resnet_27_07_20.b7f4016c",
                62.73,
                phase=799,
                note="NPID++ of PIRL's paper: 32,000 negatives, 800 epochs, cosine.",
                megabytes=2500,
            )
        },
    ),
    ModelSpec(
        "instdisc_r18",
        "instdisc",
        "r18",
        "",
        {
            "lemniscate_in1k_200ep": _lemniscate(
                "lemniscate_resnet18.pth",
                Score(41.0, _NEIGHBOUR, _README),
                "no other of this size is known",
            )
        },
    ),
    ModelSpec(
        "pirl_r50",
        "pirl",
        "r50",
        "pirl_r50_in1k_800ep",
        {
            "vissl_in1k_800ep": vissl(
                "pirl_jigsaw_4node_pirl_jigsaw_4node_resnet_22_07_20.34377f59", 64.29, phase=799, note="Linear heads."
            ),
            "vissl_in1k_800ep_mlp": vissl(
                "pirl/r50_800ep_mlphead_gblur", 69.9, phase=799, where=_PIRL, note="MLP heads and blur, with InfoNCE."
            ),
            "vissl_in1k_200ep": vissl(
                "pirl_jigsaw_4node_200ep_pirl_jigsaw_4node_resnet_22_07_20.ffd17b75",
                62.55,
                phase=199,
                note="Linear heads.",
            ),
            "vissl_in1k_200ep_author": vissl(
                "pirl/r50_200ep", 62.9, phase=199, where=_PIRL, note="Linear heads, another run of PIRL's author."
            ),
            "vissl_in1k_200ep_mlp": vissl(
                "pirl/r50_200ep_mlp_gblur", 65.8, phase=199, where=_PIRL, note="MLP heads and blur, with InfoNCE."
            ),
            "pycontrast_in1k_200ep": pycontrast("PIRL.pth", 61.7),
        },
        (Score(63.6, LINEAR, f"{_SEED} 1a"),),
    ),
    ModelSpec(
        "pirl_r50x2",
        "pirl",
        "r50x2",
        "",
        {
            "vissl_in1k_400ep_mlp": vissl(
                "pirl/r50w2_400ep_mlphead_gblur",
                70.9,
                phase=399,
                where=_PIRL,
                note="MLP heads and blur, with InfoNCE.",
                megabytes=2500,
            ),
            "vissl_in1k_400ep": vissl(
                "pirl/w2_400ep", 69.3, phase=399, where=_PIRL, note="Linear heads.", megabytes=2500
            ),
        },
    ),
    ModelSpec(
        "cmc_r50",
        "cmc",
        "cmc_r50",
        "cmc_r50_in1k_240ep",
        {
            "hobbitlong_in1k_240ep": cmc(
                "CMC_resnet50v1.pth",
                note=f"{_CMC_RECIPE} The README names the files of v2 and v3; this name is by analogy. "
                "A user did not find it in the folder (HobbitLong/CMC, issue 63 of 2021-02-03).",
            )
        },
    ),
    ModelSpec(
        "cmc_r50v2",
        "cmc",
        "cmc_r50v2",
        "",
        {"hobbitlong_in1k_240ep": cmc("CMC_resnet50v2.pth", note=_FAST_AUTO_AUGMENT)},
        (Score(66.2, f"{LINEAR}, with RandAugment", f"{_SEED} 1a"),),
    ),
    ModelSpec(
        "cmc_r50v3",
        "cmc",
        "cmc_r50v3",
        "",
        {"hobbitlong_in1k_240ep": cmc("CMC_resnet50v3.pth", note=_FAST_AUTO_AUGMENT)},
        (Score(70.6, f"{LINEAR}, with RandAugment", f"{_SEED} 1b"),),
    ),
    ModelSpec(
        "cmc_r50_ydbdr",
        "cmc",
        "cmc_r50_ydbdr",
        "cmc_r50_in1k_200ep_pycontrast",
        {"pycontrast_in1k_200ep": pycontrast("CMC.pth", 58.6)},
    ),
    ModelSpec(
        "infomin_r50",
        "infomin",
        "r50",
        "infomin_r50_in1k_800ep",
        {
            "pycontrast_in1k_800ep": pycontrast("InfoMin_800.pth", 73.0),
            "pycontrast_in1k_800ep_run2": pycontrast("InfoMin_800_run2.pth", None, note=_RUN_2),
            "pycontrast_in1k_200ep": pycontrast("InfoMin_200.pth", 70.1),
        },
        (Score(73.0, LINEAR, f"{_SEED} 1a"),),
    ),
    ModelSpec(
        "infomin_r101",
        "infomin",
        "r101",
        "",
        {"pycontrast_in1k_300ep": pycontrast("InfoMin_resnet101_e300.pth", 73.4, deeper=True)},
    ),
    ModelSpec(
        "infomin_r152",
        "infomin",
        "r152",
        "",
        {"pycontrast_in1k_200ep": pycontrast("InfoMin_resnet152_e200.pth", 73.4, deeper=True)},
    ),
    _infomin_resnext("x101_32x4d", "resnext101v1"),
    _infomin_resnext("x101_32x8d", "resnext101v2", 74.5, _WHICH.format(87, 101)),
    _infomin_resnext("x101_64x4d", "resnext101v3"),
    _infomin_resnext("x152_32x4d", "resnext152v1"),
    _infomin_resnext("x152_32x8d", "resnext152v2", 75.2, _WHICH.format(120, 152)),
    ModelSpec("cpc_r50", "cpc", "r50_ln", "cpc_r50_in1k_200ep", scores=(Score(63.8, LINEAR, f"{_SEED} 1a"),)),
    ModelSpec(
        "localagg_r18",
        "localagg",
        "r18_preact",
        "",
        {
            "neuroailab_in1k_190ep": Weights(
                "https://visualmaster-models.s3.amazonaws.com/la_orig/checkpoint-1901710.tar",
                None,
                "unknown",
                "neuroailab/LocalAggregation",
                FAIR_224,
                padding="same-pool",
                kind="localagg",
                max_megabytes=2000,  # the memory bank alone takes 656
                licence_note="The repository has no licence file: ask its authors.",
                note="A pre-activation network after 1 901 710 steps of 128 images, slightly before the final one, "
                "the README says.",
                other_link="https://www.dropbox.com/sh/pfqpcmoa8blddfy/AACQfPpy__mvEG-tJXH3OlAva (their issue 5 of "
                "2023-08-03, where the first did not answer for a while)",
            )
        },
    ),
    ModelSpec(
        "localagg_r50", "localagg", "r50", "localagg_r50_in1k_200ep", scores=(Score(60.2, LINEAR, f"{_SEED} 1a"),)
    ),
)
