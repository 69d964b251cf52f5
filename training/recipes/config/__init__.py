"""The configuration of a run, ``Recipe``: its fields, their ranges, changes by ``--set``, and its JSON."""

from training.recipes.config.fields import (
    RESNET_FIELDS,
    Heads,
    Objective,
    Optim,
    Option,
    Recipe,
    View,
    Views,
    is_resnet,
)
from training.recipes.config.overrides import full_path, override
from training.recipes.config.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    UnitInterval,
    check_ranges,
)
from training.recipes.config.stored import differences, from_json, to_json

__all__ = [
    "RESNET_FIELDS",
    "Heads",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Objective",
    "Optim",
    "Option",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "Recipe",
    "UnitInterval",
    "View",
    "Views",
    "check_ranges",
    "differences",
    "from_json",
    "full_path",
    "is_resnet",
    "override",
    "to_json",
]
