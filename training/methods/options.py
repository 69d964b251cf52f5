"""Check the options of a recipe: the constants that one method alone has."""

from __future__ import annotations

from training.recipes.config import Option, Range, Recipe
from zoo.errors import UserError

_LEAST_DIVISOR = 0.012  # exp(1 / .012) is 1.5e36, and the largest float32 3.4e38


def check_options(recipe: Recipe, **allowed: Range | tuple[str, ...]) -> None:
    """Raise UserError if an option is missing or is not allowed; a method may have others besides.

    Args:
        allowed: the range of a number, or the choices of a text, by the option's name.
    """
    if missing := allowed.keys() - recipe.options.keys():
        raise UserError(f"{recipe.method} needs the option {min(missing)!r}: begin with a recipe of that method")
    for name, values in allowed.items():
        value = recipe.options[name]
        if isinstance(values, tuple):
            if value not in values:
                raise UserError(f"options.{name}={value} is not one of {', '.join(values)}")
        elif _number(name, value) not in values:
            raise UserError(f"options.{name}={value} is out of range: it must be {values}")


def check_exponent(recipe: Recipe, name: str, divisor: float) -> None:
    """Raise UserError if exp(1 / divisor), the largest of a cosine over a temperature, is infinite in float32."""
    if divisor < _LEAST_DIVISOR:
        raise UserError(
            f"{name}={divisor:g} is too small for {recipe.method}: exp(1 / {divisor:g}) is infinite in float32, give "
            f"{_LEAST_DIVISOR:g} or more"
        )


def _number(name: str, value: Option) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"options.{name}={value} is no number") from None
