"""Learning rates and tau as functions of the step, nothing else."""

from __future__ import annotations

from math import cos, pi


def warmup_cosine(step: float, *, base: float, batch_size: int, total: int, warmup: int) -> float:
    """BYOL's: base * batch_size / 256, linear from 0 over ``warmup`` steps, then cosine to 0 ([B] 3.3)."""
    peak = base * batch_size / 256
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + cos(pi * (step - warmup) / (total - warmup)))


def cosine_by_epoch(epoch: int, *, base: float, batch_size: int, epochs: int) -> float:
    """SimSiam's: base * batch_size / 256, cosine, constant within an epoch (official ``main_simsiam.py``)."""
    return base * batch_size / 256 * 0.5 * (1 + cos(pi * epoch / epochs))


def target_momentum(step: int, *, base: float, total: int) -> float:
    """BYOL's tau: from ``base`` to 1 by a cosine, 1 - (1 - base) (cos(pi k / K) + 1) / 2 ([B] 3.3)."""
    return 1 - (1 - base) * (cos(pi * step / total) + 1) / 2
