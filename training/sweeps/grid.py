"""The candidates of a sweep, and how long each of them is trained."""

from __future__ import annotations

from itertools import product

from training.recipes.config import Recipe, full_path, override
from zoo.errors import UserError

_MOST = 1000  # candidates: more are a mistake


def parse(over: list[str]) -> dict[str, list[str]]:
    """Return the values of each field of ``["optim.lr=0.05,0.1", ...]``.

    Raises:
        UserError: a text has another form, or a field or value stands twice.
    """
    found: dict[str, list[str]] = {}
    for text in over:
        name, equals, values = text.partition("=")
        chosen = [value.strip() for value in values.split(",")]
        if not equals or not name or not all(chosen):
            raise UserError(f"--over takes FIELD=VALUE,VALUE, not {text!r}")
        if name in found:
            raise UserError(f"--over {name} is given twice: list all of its values in one")
        if len(set(chosen)) < len(chosen):
            raise UserError(f"--over {text}: a value is there twice")
        found[name] = chosen
    if not found:
        raise UserError("a sweep needs --over FIELD=VALUE,VALUE, e.g. --over optim.lr=0.05,0.1")
    return found


def require_not_set(recipe: Recipe, over: dict[str, list[str]], overrides: list[str]) -> None:
    """Refuse a field that all candidates are given and that the sweep varies: one of both would be without effect."""
    given = {full_path(recipe, name): name for name in (text.partition("=")[0] for text in overrides)}
    for name in over:
        if (path := full_path(recipe, name)) in given:
            raise UserError(f"--over {name} replaces --set {given[path]}: leave one of both away")


def candidates(recipe: Recipe, over: dict[str, list[str]]) -> list[list[str]]:
    """Return the settings of each candidate, all combinations, the first field slowest.

    Raises:
        UserError: there are too many, a field is there under two names, or a field or value is wrong for the recipe.
    """
    paths: dict[str, str] = {}
    for name in over:
        if (path := full_path(recipe, name)) in paths:
            raise UserError(f"--over {paths[path]} and {name} are the same field: list all of its values in one")
        paths[path] = name
    count = 1
    for values in over.values():
        count *= len(values)
    if count > _MOST:
        raise UserError(f"{count} combinations: give {_MOST} or fewer")
    found = [
        [f"{name}={value}" for name, value in zip(over, values, strict=True)] for values in product(*over.values())
    ]
    made = [override(recipe, settings) for settings in found]
    for number, one in enumerate(made):
        if one in made[:number]:
            raise UserError(f"--over: {', '.join(found[number])} is the same run as another candidate")
        if one.optim.epochs != recipe.optim.epochs:
            raise UserError("--over optim.epochs: every candidate gets the same budget; set it with --set")
        if one.early_stop_patience:
            raise UserError("early_stop_patience: every candidate gets the same budget; leave it 0")
    return found


def rung_epochs(epochs: int, count: int, eta: int) -> list[int]:
    """Return the epochs of each rung of successive halving, shortest first; the last is ``epochs``.

    Each rung keeps one candidate in ``eta`` and trains it ``eta`` times as long (Jamieson & Talwalkar 2016, arXiv
    1502.07943, algorithm 1), so that all rungs cost about the same.
    """
    lengths = [epochs]
    while count >= eta and lengths[0] >= eta:
        lengths.insert(0, lengths[0] // eta)
        count = kept(count, eta)
    return lengths


def kept(count: int, eta: int) -> int:
    """Return how many of ``count`` candidates the next rung trains."""
    return max(1, count // eta)
