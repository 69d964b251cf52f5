"""One method a file, to be held against its paper.

What the loop asks of each: ``encoder``, ``projector``, ``predictor``; ``losses(v1, v2, labels)`` takes two normalised
views [N, 3, H, W] and gives named scalars whose sum is minimised; ``after_step(tau)`` follows each optimiser step.
"""

from training.methods.byol import BYOL
from training.methods.simsiam import SimSiam

__all__ = ["BYOL", "Method", "SimSiam"]

Method = BYOL | SimSiam
