"""The range of a number stands in its type, such as ``PositiveInt``; ``check_ranges`` enforces it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, get_args, get_type_hints

from zoo.errors import UserError


@dataclass(frozen=True)
class Range:
    """Inclusive range of a finite number; ``above`` makes the lower bound exclusive, ``whole`` excludes fractions."""

    minimum: float
    maximum: float = inf
    above: bool = False
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        in_bounds = self.minimum <= value <= self.maximum and not (self.above and value == self.minimum)
        return in_bounds and abs(value) != inf and not (self.whole and value % 1)

    def __str__(self) -> str:
        kind = ", a whole number" if self.whole else ""
        if self.maximum < inf:
            return f"between {self.minimum:g} and {self.maximum:g}{kind}"
        return f"above {self.minimum:g}{kind}" if self.above else f"{self.minimum:g} or more{kind}"


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
UnitInterval = Annotated[float, Range(0, 1)]
PositiveFloat = Annotated[float, Range(0, above=True)]
NonNegativeFloat = Annotated[float, Range(0)]


def check_ranges(config: object, path: str = "") -> None:
    """Check every number of a recipe, or of its part at ``path``.

    Raises:
        UserError: a number is out of its range; the message names the first one.
    """
    for name, hint in field_types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{path}{name}.")
        for allowed in (a for a in get_args(hint) if isinstance(a, Range)):
            if value not in allowed:
                raise UserError(f"{path}{name}={value} is out of range: it must be {allowed}")


def field_types(type_: type) -> dict[str, Any]:
    """Return the names and types of a config's fields; an optional dataclass is given as the dataclass."""

    def required(hint: object) -> object:
        return next((a for a in get_args(hint) if isinstance(a, type) and dataclasses.is_dataclass(a)), hint)

    return {name: required(hint) for name, hint in get_type_hints(type_, include_extras=True).items()}
