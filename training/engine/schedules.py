"""Learning rates and tau, as functions of the step or epoch only; both are counted from 0.

``base`` rates are for a batch of 256 and scale linearly with it.
"""

from __future__ import annotations

from math import cos, pi

from training.data.sampler import EpochSampler
from training.recipes.config import Optim


def learning_rate(config: Optim, step: int, sampler: EpochSampler) -> float:
    """Return the learning rate of ``step`` under the recipe's schedule."""
    base, batch_size, epoch = config.lr, config.batch_size, sampler.epoch_at(step)
    # Follow the schedule that the original code of the recipe has. Each reads its own fields only, by which
    # ``training.engine.unread`` knows them.
    match config.schedule:
        case "step":
            total, warmup = sampler.steps(config.epochs), sampler.steps(config.warmup_epochs)
            return warmup_cosine(
                step, base=base, final=config.final_lr, batch_size=batch_size, total=total, warmup=warmup
            )
        case "swav":
            total, warmup = sampler.steps(config.epochs), sampler.steps(config.warmup_epochs)
            start, final = config.start_lr, config.final_lr
            return swav_cosine(
                step, start=start, base=base, final=final, batch_size=batch_size, total=total, warmup=warmup
            )
        case "epoch":
            final = config.final_lr
            return cosine_by_epoch(epoch, base=base, batch_size=batch_size, epochs=config.epochs, final=final)
        case "epoch_end":
            final = config.final_lr
            return cosine_by_epoch(epoch + 1, base=base, batch_size=batch_size, epochs=config.epochs, final=final)
        case "decay":
            every, start = config.decay_epochs, config.decay_start
            return step_decay(epoch, base=base, batch_size=batch_size, every=every, start=start)


def tau(config: Optim, step: int, total_steps: int) -> float:
    """Return BYOL's target momentum at ``step``."""
    return config.tau if config.constant_tau else target_momentum(step, base=config.tau, total=total_steps)


def warmup_cosine(step: float, *, base: float, batch_size: int, total: int, warmup: int, final: float = 0.0) -> float:
    """BYOL's and SimCLR's rate: base * batch_size / 256, linear from 0 over ``warmup`` steps, cosine to 0 ([B] 3.3).

    Barlow Twins and VICReg end at ``final``, a thousandth of ``base``, instead of 0 (official ``main*.py``).
    """
    peak, end = base * batch_size / 256, final * batch_size / 256
    if step < warmup:
        return peak * step / warmup
    return end + (peak - end) * 0.5 * (1 + cos(pi * (step - warmup) / (total - warmup)))


def swav_cosine(
    step: int, *, start: float, base: float, final: float, batch_size: int, total: int, warmup: int
) -> float:
    """SwAV's rate: linear from ``start``, reaches ``base`` in the LAST warm-up step, then cosine to ``final``.

    The source is the official ``main_swav.py``.
    """
    scale = batch_size / 256
    if step < warmup:
        return scale * (start + (base - start) * (step / (warmup - 1) if warmup > 1 else 0.0))
    return scale * (final + 0.5 * (base - final) * (1 + cos(pi * (step - warmup) / (total - warmup))))


def cosine_by_epoch(epoch: int, *, base: float, batch_size: int, epochs: int, final: float = 0.0) -> float:
    """SimSiam's and MoCo v2's rate: a cosine that is constant within an epoch (official ``main_*.py``).

    VISSL's and PyContrast's end at ``final``, and PyContrast's epochs count from 1.
    """
    peak, end = base * batch_size / 256, final * batch_size / 256
    return end + (peak - end) * 0.5 * (1 + cos(pi * epoch / epochs))


def step_decay(epoch: int, *, base: float, batch_size: int, every: int, start: int = 0) -> float:
    """The supervised rate: divided by ten after every ``every`` epochs (torchvision's reference: 30).

    InstDisc's and CMC's: divided by ten after ``start`` epochs, and after every ``every`` later ones.
    """
    drops = epoch // every if not start else max(0, (epoch - start) // every + 1)
    return base * batch_size / 256 * 0.1**drops


def target_momentum(step: int, *, base: float, total: int) -> float:
    """BYOL's tau: a cosine from ``base`` to 1, 1 - (1 - base) (cos(pi k / K) + 1) / 2 ([B] 3.3)."""
    return 1 - (1 - base) * (cos(pi * step / total) + 1) / 2
