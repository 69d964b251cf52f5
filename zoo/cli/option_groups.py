"""Let a command take its options in groups: dataclasses with an option per field."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import get_type_hints


def grouped(function: Callable[..., int]) -> Callable[..., int]:
    """Return a command for typer whose options are the fields of the dataclasses that ``function`` takes.

    Parameters of other types stay as they are. The names of all fields and parameters must differ.
    """
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    options: list[inspect.Parameter] = []
    # Put a group's fields in its place; other parameters keep theirs.
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            options.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        group = groups[parameter.name]
        annotations = get_type_hints(group, include_extras=True)
        for field in fields(group):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            kind = inspect.Parameter.KEYWORD_ONLY
            options.append(inspect.Parameter(field.name, kind, default=default, annotation=annotations[field.name]))

    # Put the flat options back into their groups for each call.
    @wraps(function)
    def command(**given: object) -> int:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return function(**given, **made)

    # Typer must see the flat options, not the groups.
    keyword_only = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    vars(command)["__signature__"] = inspect.Signature(keyword_only, return_annotation=int)
    command.__annotations__ = {option.name: option.annotation for option in options} | {"return": int}
    return command
