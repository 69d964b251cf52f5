"""Published runs on ImageNet-1k: one function for each, which returns a complete ``Recipe``; variants edit another.

A file holds the recipes of one family of papers. All default to bf16 autocast. The originals were fp32, and SwAV's was
apex O1 (mixed fp16). ``--set precision=fp32`` reproduces fp32, without TF32. (A TPU, on which BYOL and SimCLR were
trained, may have multiplied fp32 numbers in bf16; their repositories do not say.)
"""

from training.recipes.imagenet.banks import (
    cmc_in1k,
    cmc_pycontrast_in1k,
    instdisc_in1k,
    instdisc_pycontrast_in1k,
    localagg_in1k,
    pirl_in1k,
    pirl_pycontrast_in1k,
)
from training.recipes.imagenet.byol import byol_gn_in1k, byol_in1k, byol_r50_in1k_1000ep_b512
from training.recipes.imagenet.cpc import cpc_in1k
from training.recipes.imagenet.moco import (
    densecl_in1k,
    infomin_in1k,
    mocov1_in1k,
    mocov2_in1k,
    mocov2_symmetric_in1k,
    mocov3_in1k,
)
from training.recipes.imagenet.redundancy import barlowtwins_in1k, vicreg_in1k
from training.recipes.imagenet.simclr import simclr_3layer_in1k, simclr_in1k
from training.recipes.imagenet.simsiam import simsiam_b256_in1k, simsiam_in1k, simsiam_optimal_in1k
from training.recipes.imagenet.supervised import supervised_in1k
from training.recipes.imagenet.swav import swav_2x224_in1k, swav_b256_in1k, swav_in1k, swav_wide_in1k
from training.recipes.imagenet.views import LEM_VIEW, MOCO_VIEW, PYC_VIEW_A, SIMCLR_VIEW

__all__ = [
    "LEM_VIEW",
    "MOCO_VIEW",
    "PYC_VIEW_A",
    "SIMCLR_VIEW",
    "barlowtwins_in1k",
    "byol_gn_in1k",
    "byol_in1k",
    "byol_r50_in1k_1000ep_b512",
    "cmc_in1k",
    "cmc_pycontrast_in1k",
    "cpc_in1k",
    "densecl_in1k",
    "infomin_in1k",
    "instdisc_in1k",
    "instdisc_pycontrast_in1k",
    "localagg_in1k",
    "mocov1_in1k",
    "mocov2_in1k",
    "mocov2_symmetric_in1k",
    "mocov3_in1k",
    "pirl_in1k",
    "pirl_pycontrast_in1k",
    "simclr_3layer_in1k",
    "simclr_in1k",
    "simsiam_b256_in1k",
    "simsiam_in1k",
    "simsiam_optimal_in1k",
    "supervised_in1k",
    "swav_2x224_in1k",
    "swav_b256_in1k",
    "swav_in1k",
    "swav_wide_in1k",
    "vicreg_in1k",
]
