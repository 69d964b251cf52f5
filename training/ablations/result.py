"""The types of the JSON that an ablation writes."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from zoo.system.json_types import JSON


class CellKey(TypedDict):
    """The part that must be equal for a finished cell to be used again; ``data`` has names and numbers of images.

    ``content`` (``Dataset.content`` of both parts) came later: files of earlier versions lack it.
    """

    recipe: dict[str, JSON]
    data: list[str | int]
    content: NotRequired[list[str]]
    score_by: str


class CellScores(TypedDict):
    """Accuracy of the frozen encoder in percent, spread and effective rank of its projections; on test images."""

    score: float
    spread: float
    rank: float
    collapsed: bool


class CellResult(CellKey, CellScores):
    """The ``result.json`` of a cell; its curves are pairs [step, value]."""

    minutes: float
    hardware: str
    curves: dict[str, list[list[JSON]]]


class RowResult(TypedDict):
    """A row of the table: means over its cells, and the 95 % interval [low, high] of the mean score in percent."""

    name: str
    label: str
    method: str
    published: float
    mean: float
    interval: list[float] | None
    spread: float
    rank: float
    collapsed: int
    cells: list[CellResult]


class AblationResult(TypedDict):
    """The ``NAME.json`` of an ablation; ``apart`` has the pairs [better, worse] of rows whose intervals differ."""

    ablation: str
    title: str
    source: str
    setting: str
    score: str
    seeds: int
    data: dict[str, list[str | int]]
    base: dict[str, dict[str, JSON]]
    versions: dict[str, str]
    rows: list[RowResult]
    apart: list[list[str]]
