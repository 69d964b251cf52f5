"""Each method in one file, to be read beside its paper: network, losses and hooks; nothing about data or the loop."""

from training.methods.barlow_twins import BarlowTwins
from training.methods.base import Method, StepInfo
from training.methods.byol import BYOL
from training.methods.byol_gn import BYOLGroupNorm
from training.methods.cmc import CMC
from training.methods.cpc import CPC
from training.methods.densecl import DenseCL
from training.methods.find import METHODS, build_method, find_method
from training.methods.infomin import InfoMin
from training.methods.instdisc import InstDisc
from training.methods.local_aggregation import LocalAggregation
from training.methods.mocov2 import MoCoV2
from training.methods.mocov3 import MoCoV3
from training.methods.pirl import PIRL
from training.methods.simclr import SimCLR
from training.methods.simsiam import SimSiam
from training.methods.supervised import Supervised
from training.methods.swav import SwAV
from training.methods.vicreg import VICReg

__all__ = [
    "BYOL",
    "CMC",
    "CPC",
    "METHODS",
    "PIRL",
    "BYOLGroupNorm",
    "BarlowTwins",
    "DenseCL",
    "InfoMin",
    "InstDisc",
    "LocalAggregation",
    "Method",
    "MoCoV2",
    "MoCoV3",
    "SimCLR",
    "SimSiam",
    "StepInfo",
    "Supervised",
    "SwAV",
    "VICReg",
    "build_method",
    "find_method",
]
