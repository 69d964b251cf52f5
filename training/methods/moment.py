"""Where in a run an optimiser step stands: all that a method's hooks may depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """One optimiser step, however many micro-batches and ranks it has.

    Attributes:
        step: counted from 0.
        total_steps: of the run.
        epoch: counted from 0, in which the step begins.
        tau: BYOL's target momentum of this step.
    """

    step: int
    total_steps: int
    epoch: int
    tau: float
