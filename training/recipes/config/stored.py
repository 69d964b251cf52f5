"""Recipes as JSON, as logs, checkpoints and cards store them, and what two of them differ in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from training.recipes.config.fields import Recipe
from training.recipes.config.ranges import field_types
from zoo.errors import UserError
from zoo.system.json_types import JSON

T = TypeVar("T")

_NEUTRAL_OPTIONS = (("gpus", 1),)  # options that came later, with the value that earlier runs had


def to_json(recipe: Recipe) -> dict[str, JSON]:
    """Return nested dicts.

    Fields that came later, such as ``options`` and ``optim.decay_start``, are left out where they say nothing.
    """
    values = dataclasses.asdict(recipe)
    for view in (values["views"][name] for name in ("first", "second", "small")):
        for key, nothing in (("rand_augment", 0), ("cells", 1)):
            if view is not None and view[key] == nothing:
                del view[key]
    for later in ("options", "early_stop_patience", "finetune_epochs"):
        if not values[later]:
            del values[later]
    if not values["optim"]["decay_start"]:
        del values["optim"]["decay_start"]
    return values


def from_json(values: Mapping[str, object]) -> Recipe:
    """Return the recipe of ``to_json``; fields that an older version did not have take their defaults.

    Raises:
        UserError: a field is unknown to this version, or a required one is missing.
    """
    options = values.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(v, bool | int | float | str) for v in options.values()):
        raise UserError("the recipe's options are not names with a number or a text each")
    return _built(Recipe, values)


def _built(type_: type[T], values: Mapping[str, object]) -> T:
    types = field_types(type_)
    if unknown := sorted(values.keys() - types.keys()):
        raise UserError(f"the recipe has a field {unknown[0]!r}, which this version does not know: update siamese-zoo")
    groups = {k: v for k, v in values.items() if isinstance(v, dict) and dataclasses.is_dataclass(types[k])}
    nested: dict[str, Any] = {k: _built(types[k], v) for k, v in groups.items()}
    try:
        return type_(**{**values, **nested})
    except TypeError as error:
        raise UserError(f"the recipe is incomplete ({error})") from None


def _telling(value: object) -> object:
    """Return options without those that change nothing; another value as it is."""
    if not isinstance(value, dict):
        return value
    return {name: option for name, option in value.items() if (name, option) not in _NEUTRAL_OPTIONS}


def differences(ours: object, theirs: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield path and both values of every field in which two recipes, or two of their parts, differ."""
    if type(ours) is not type(theirs) or not dataclasses.is_dataclass(ours):
        if _telling(ours) != _telling(theirs):
            yield path, ours, theirs
        return
    for each in dataclasses.fields(ours):
        below = f"{path}.{each.name}" if path else each.name
        yield from differences(getattr(ours, each.name), getattr(theirs, each.name), below)
