"""The choice of a learning rate by score, and the score over seeds or test images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from zoo.errors import UserError
from zoo.evaluate.dense.finetune import SgdConfig
from zoo.evaluate.errors import Diverged
from zoo.evaluate.result import mean_over_seeds


@dataclass(frozen=True)
class RunScore:
    """The score of one trained network; JSON-able.

    Attributes:
        score: percent on the images it was tested on.
        loss: mean of the last training losses.
        detail: one nested list of numbers per test image, from which the score is computed again.
    """

    score: float
    loss: float
    detail: list[object]


class FractionalSchedule(Protocol):
    """The SGD options of a schedule whose drops are fractions of the iterations."""

    @property
    def iterations(self) -> int: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def drops(self) -> tuple[float, ...]: ...


def sgd_config(schedule: FractionalSchedule, lr: float) -> SgdConfig:
    """Return the optimiser's settings of a schedule, with drops in steps."""
    drops = tuple(round(fraction * schedule.iterations) for fraction in schedule.drops)
    return SgdConfig(schedule.iterations, lr, schedule.momentum, schedule.weight_decay, drops)


def choose_learning_rate(lrs: Sequence[float], score: Callable[[float], float]) -> tuple[float, dict[str, object]]:
    """Return the learning rate with the highest ``score``, and all scores by learning rate.

    A single learning rate is not tried. One that diverges cannot win. The first wins a tie.

    Raises:
        UserError: all of them diverged, or a score is NaN.
    """
    # One rate leaves nothing to choose.
    if len(lrs) == 1:
        return lrs[0], {}
    tried: dict[str, object] = {}
    found: list[tuple[float, float]] = []
    # A rate that diverges loses, but does not end the sweep.
    for lr in lrs:
        try:
            value = score(lr)
            # A comparison with NaN is false: it could win.
            if math.isnan(value):
                raise UserError(
                    "the images that choose the learning rate have nothing to score: give one value, --set lrs=VALUE"
                )
            found.append((value, lr))
            tried[f"{lr:.3g}"] = round(value, 2)
        except Diverged:
            tried[f"{lr:.3g}"] = "diverged"
    if not found:
        raise UserError(f"no learning rate of {', '.join(tried)} converged: give smaller ones with --set lrs=...")
    return max(found, key=lambda pair: pair[0])[1], tried


def score_over_runs(
    scores: Sequence[float], images: int, bootstrap: Callable[[], tuple[float, float]]
) -> tuple[float, tuple[float, float], str]:
    """Return the mean score, its 95 % interval, and the method of the interval.

    The interval is over seeds if there are several, else over test images by ``bootstrap``. A single score on a single
    image tells nothing: its interval is 0 to 100.
    """
    if len(scores) > 1:
        return *mean_over_seeds(scores), f"t over {len(scores)} seeds"
    if images < 2:
        return scores[0], (0.0, 100.0), "none: one test picture"
    return scores[0], bootstrap(), "bootstrap"
