"""Change fields of a recipe by texts such as ``optim.lr=0.3``, the values of ``--set``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

from training.recipes.config.fields import RESNET_FIELDS, Option, Recipe, is_resnet
from training.recipes.config.ranges import check_ranges, field_types
from zoo.errors import UserError, closest_name

T = TypeVar("T")


def override(recipe: Recipe, assignments: list[str]) -> Recipe:
    """Return ``recipe`` with assignments such as ``["optim.lr=0.3", "views.size=48"]`` applied.

    The end of a path is enough where only one field has it: ``lr`` is ``optim.lr``. With an ``architecture`` that is no
    ResNet, the fields that only ResNets have take their defaults, unless they are assigned too.

    Raises:
        UserError: an assignment is not ``field=value``, names an unknown field (the message names the nearest one) or
            several (it lists them), or has a value of another type or outside the field's range.
    """
    assigned = set()
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes field=value, not {assignment!r}")
        path = full_path(recipe, path)
        recipe = _with_field(recipe, path.split("."), text, path)
        assigned.add(path)
    if "architecture" in assigned and not is_resnet(recipe.architecture):
        defaults = {f.name: f.default for f in dataclasses.fields(Recipe) if f.name in RESNET_FIELDS - assigned}
        recipe = dataclasses.replace(recipe, **cast(dict[str, Any], defaults))
    check_ranges(recipe)
    return recipe


def full_path(recipe: Recipe, path: str) -> str:
    """Return the path of the one field that ends in ``path``, or ``path`` itself where there is none.

    Raises:
        UserError: several fields end so.
    """
    if path.partition(".")[0] in field_types(Recipe):
        return path
    found = [field for field in _field_paths(recipe) if field.endswith(f".{path}")]
    if len(found) > 1:
        raise UserError(f"--set {path} could be {', '.join(found[:-1])} or {found[-1]}: give one of them")
    return found[0] if found else path


def _field_paths(config: object, path: str = "") -> Iterator[str]:
    """Yield the path of every value of a recipe, or of its part at ``path``."""
    for name in field_types(type(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from _field_paths(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def _with_field(config: T, path: list[str], text: str, option: str) -> T:
    """Return ``config`` with the field at ``path`` set to ``text``; ``option`` is the whole path, for messages."""
    if path[0] == "options" and isinstance(config, Recipe):
        return dataclasses.replace(config, options=_with_option(config.options, path[1:], text, option))
    # Check that the field exists.
    types = field_types(type(config))
    name, *rest = path
    if name not in types:
        known = {field.rpartition(".")[2]: field for field in _field_paths(config)} | {field: field for field in types}
        nearest = known[closest_name(name, known) or name]
        raise UserError(
            f"--set {option}: no field {name!r}; the nearest is {nearest!r} (of {', '.join(sorted(types))})"
        )
    # Descend into a group of fields.
    old = getattr(config, name)
    if dataclasses.is_dataclass(old):
        if not rest:
            raise UserError(f"--set {option}: name one of its fields: {', '.join(field_types(type(old)))}")
        return _replaced(config, name, _with_field(old, rest, text, option))
    # Refuse a path that the recipe does not have.
    if dataclasses.is_dataclass(types[name]):
        raise UserError(f"--set {option}: this recipe has no {name!r}")
    if rest:
        raise UserError(f"--set {option}: {name!r} has no fields")
    return _replaced(config, name, _parsed(text, types[name], option))


def _with_option(options: Mapping[str, Option], path: list[str], text: str, option: str) -> dict[str, Option]:
    """Return ``options`` with one value set; it keeps the type that it has in the recipe."""
    if not options:
        raise UserError(f"--set {option}: this recipe has no options")
    if len(path) != 1 or path[0] not in options:
        raise UserError(f"--set {option}: the options of this recipe are {', '.join(sorted(options))}")
    hints = {bool: bool, int: Annotated[int, None], float: Annotated[float, None], str: str}
    return {**options, path[0]: cast(Option, _parsed(text, hints[type(options[path[0]])], option))}


def _replaced(config: T, name: str, value: object) -> T:
    fields: dict[str, Any] = {field: getattr(config, field) for field in field_types(type(config))}
    return type(config)(**fields | {name: value})


def _parsed(text: str, hint: object, option: str) -> object:
    """Convert ``text`` to the field's declared type: a bool, a str, one string of a Literal, or a number."""
    # Accept text, switches and choices as they are written.
    if hint is str:
        return text
    if hint is bool:
        return _one_of(("true", "false"), text, option) == "true"
    if get_origin(hint) is Literal:
        return _one_of(get_args(hint), text, option)
    # Convert everything else to its number type.
    number, _ = get_args(hint)  # Annotated
    try:
        return number(text)
    except ValueError:
        raise UserError(f"--set {option}: {text!r} is not a valid {number.__name__}") from None


def _one_of(choices: tuple[str, ...], text: str, option: str) -> str:
    if text not in choices:
        raise UserError(f"--set {option}: {text!r} is not one of {', '.join(choices)}")
    return text
