"""Ranges of ``--set`` options, checked before data or a model are opened."""

from __future__ import annotations

from zoo.errors import UserError


def require_at_least(options: object, **least: float) -> None:
    """Check that each named option, or each of its values, is at least the number given.

    Raises:
        UserError: one is smaller, or is no number.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        for one in value if isinstance(value, tuple) else (value,):
            if not one >= bound:
                raise UserError(f"--set {name}: give {bound:g} or more, not {one:g}")


def require_above_zero(options: object, *names: str) -> None:
    """Check that each named option has a value, and only values above 0. Raises UserError."""
    for name in names:
        value = getattr(options, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(one > 0 for one in values):
            raise UserError(f"--set {name} takes values above 0")


def require_area(min_area: float) -> None:
    """Check the least area of a random crop, a share of the image. Raises UserError."""
    if not 0 < min_area <= 1:
        raise UserError(f"--set min_area: give a number above 0 and at most 1, not {min_area:g}")
