"""The types of the JSON that a sweep writes."""

from __future__ import annotations

from typing import TypedDict

from zoo.system.json_types import JSON


class TrialKey(TypedDict):
    """What must be equal for a finished trial to be used again; ``data`` has name, number and content of both parts."""

    recipe: dict[str, JSON]
    data: list[list[str | int]]


class TrialResult(TrialKey):
    """The ``result.json`` of a trial.

    ``images_seen`` is the budget that training spent, ``knn`` the accuracy in percent on held-out images with its
    95 % interval (Wilson).
    """

    knn: float
    interval: list[float]
    spread: float
    effective_rank: float
    collapsed: bool
    images_seen: int
    minutes: float
    hardware: str


class Rung(TypedDict):
    """The trials of one length, ranked, best first: all had the same number of epochs."""

    epochs: int
    trials: list[RankedTrial]


class RankedTrial(TypedDict):
    """A trial in the ranking: what was set, its folder, its result and whether the next rung continues with it."""

    settings: list[str]
    folder: str
    knn: float
    interval: list[float]
    collapsed: bool
    images_seen: int
    minutes: float
    kept: bool


class SweepResult(TypedDict):
    """The ``sweep.json``: the rungs from the shortest to the longest. ``best`` are the settings that won the last.

    ``tied`` are settings of the last rung whose intervals overlap the winner's: they may be as good.
    """

    recipe: str
    over: dict[str, list[str]]
    scheme: str
    score: str
    data: list[list[str | int]]
    rungs: list[Rung]
    best: list[str]
    tied: list[list[str]]
    versions: dict[str, str]
