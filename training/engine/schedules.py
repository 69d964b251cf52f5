"""Learning rates and tau as functions of the step or epoch, counted from 0; nothing else.

``base`` rates are for a batch of 256 and scale linearly with it.
"""

from __future__ import annotations

from math import cos, pi


def warmup_cosine(step: float, *, base: float, batch_size: int, total: int, warmup: int) -> float:
    """BYOL's and SimCLR's: base * batch_size / 256, linear from 0 over ``warmup`` steps, then cosine to 0 ([B] 3.3)."""
    peak = base * batch_size / 256
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + cos(pi * (step - warmup) / (total - warmup)))


def swav_cosine(
    step: int, *, start: float, base: float, final: float, batch_size: int, total: int, warmup: int
) -> float:
    """SwAV's: linear from ``start``, reaching ``base`` in the LAST warm-up step, then cosine to ``final``
    (official ``main_swav.py``)."""
    scale = batch_size / 256
    if step < warmup:
        return scale * (start + (base - start) * (step / (warmup - 1) if warmup > 1 else 0.0))
    return scale * (final + 0.5 * (base - final) * (1 + cos(pi * (step - warmup) / (total - warmup))))


def cosine_by_epoch(epoch: int, *, base: float, batch_size: int, epochs: int) -> float:
    """SimSiam's and MoCo v2's: base * batch_size / 256, cosine, constant within an epoch (official ``main_*.py``)."""
    return base * batch_size / 256 * 0.5 * (1 + cos(pi * epoch / epochs))


def step_decay(epoch: int, *, base: float, batch_size: int, every: int) -> float:
    """Supervised: base * batch_size / 256, a tenth after every ``every`` epochs (torchvision's reference: 30)."""
    return base * batch_size / 256 * 0.1 ** (epoch // every)


def target_momentum(step: int, *, base: float, total: int) -> float:
    """BYOL's tau: from ``base`` to 1 by a cosine, 1 - (1 - base) (cos(pi k / K) + 1) / 2 ([B] 3.3)."""
    return 1 - (1 - base) * (cos(pi * step / total) + 1) / 2
