"""What reduced precision costs a model: ``zoo/bundled/precision.json``, measured by ``benchmarks/precision.py``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import NamedTuple

from zoo.system.json_reader import fields, items, number, parse_json, text

ALLOWED_LOSS = 0.5
"""Points of kNN accuracy that a reduced precision may lose without a word."""


class MeasuredPrecision(NamedTuple):
    """kNN accuracies in per cent on a data set: of torch in fp32, and of a backend in a reduced precision."""

    fp32: float
    reduced: float
    data: str

    @property
    def loss(self) -> float:
        """Points of kNN accuracy that are lost; negative where it gained."""
        return round(self.fp32 - self.reduced, 2)


def measured(model: str, backend: str, precision: str) -> MeasuredPrecision | None:
    """Return the measurement for the full name of a model, such as ``byol_r18_mini.tin32``; ``None``: there is none.

    int8 is measured with weights of 7 and of 8 bits: this is the one that loses more.
    """
    return _table().get((model, backend, precision))


@cache
def _table() -> dict[tuple[str, str, str], MeasuredPrecision]:
    contents = fields(parse_json((files("zoo") / "bundled" / "precision.json").read_bytes()), "data", "rows")
    found: dict[tuple[str, str, str], MeasuredPrecision] = {}
    for row in map(fields, items(contents["rows"])):
        key = text(row["model"]), text(row["backend"]), text(row["precision"])
        row_found = MeasuredPrecision(number(row["fp32"]), number(row["reduced"]), text(contents["data"]))
        found[key] = max(row_found, found.get(key, row_found), key=lambda one: one.loss)
    return found
