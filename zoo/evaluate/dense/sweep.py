"""A learning rate chosen by score, where one that diverges loses instead of ending the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zoo.errors import UserError
from zoo.evaluate.dense.finetune import Diverged, Sgd
from zoo.evaluate.result import over_seeds


@dataclass(frozen=True)
class Trained:
    """What is kept of one trained network; JSON-able.

    Attributes:
        score: percent on what it was tested on.
        loss: mean of the last training losses.
        detail: what the result needs of each test image.
    """

    score: float
    loss: float
    detail: list[Any]


def summarise(
    scores: Sequence[float], pictures: int, resample: Callable[[], tuple[float, float]]
) -> tuple[float, tuple[float, float], str]:
    """Score, its 95 % interval, and how that was found: over seeds where there are several, else over test pictures.

    ``resample`` bootstraps over the pictures; with a single one nothing is known, and the interval is 0 to 100.
    """
    if len(scores) > 1:
        return *over_seeds(scores), f"t over {len(scores)} seeds"
    if pictures < 2:
        return scores[0], (0.0, 100.0), "none: one test picture"
    return scores[0], resample(), "bootstrap"


class HasSgd(Protocol):
    """The part of a protocol that decides the optimiser; drops are fractions of the iterations."""

    @property
    def iterations(self) -> int: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def drops(self) -> tuple[float, ...]: ...


def sgd_of(protocol: HasSgd, lr: float) -> Sgd:
    """The optimiser of a protocol."""
    drops = tuple(round(fraction * protocol.iterations) for fraction in protocol.drops)
    return Sgd(protocol.iterations, lr, protocol.momentum, protocol.weight_decay, drops)


def best(
    lrs: Sequence[float], score: Callable[[float], float], where: Callable[[], str]
) -> tuple[float, dict[str, Any], str]:
    """The value of ``lrs`` with the highest ``score``, all scores by value, and where they were measured.

    A single value is not tried. The first of equals wins.

    Raises:
        UserError: all of them diverged.
    """
    if len(lrs) == 1:
        return lrs[0], {}, "not chosen: the protocol has one"
    tried: dict[str, Any] = {}
    found: list[tuple[float, float]] = []
    for lr in lrs:
        try:
            value = score(lr)
            found.append((value, lr))
            tried[f"{lr:.3g}"] = round(value, 2)
        except Diverged:
            tried[f"{lr:.3g}"] = "diverged"
    if not found:
        raise UserError(f"no learning rate of {', '.join(tried)} converged: give smaller ones with --set lrs=...")
    return max(found, key=lambda pair: pair[0])[1], tried, where()
