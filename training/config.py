"""What a run is: frozen dataclasses. A recipe is a function that returns a complete ``Recipe`` (``recipes.py``)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_type_hints

from zoo.errors import UserError


@dataclass(frozen=True)
class View:
    """Probabilities and strengths of one view; the defaults are BYOL's first ([B] app. B, table 6)."""

    min_area: float = 0.08  # of the image; the largest is 1
    jitter_p: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_p: float = 0.2
    blur_p: float = 1.0
    solarize_p: float = 0.0


@dataclass(frozen=True)
class Views:
    """A pair of views; ``operations`` says in whose arithmetic (``training.image_ops``)."""

    size: int = 224
    operations: Literal["byol", "torchvision"] = "byol"
    first: View = View()
    second: View = View(blur_p=0.1, solarize_p=0.2)


@dataclass(frozen=True)
class Heads:
    """Sizes of projector and predictor; for BYOL ``hidden`` is of both, for SimSiam of the predictor."""

    hidden: int = 4096
    out: int = 256
    projector_layers: int = 3  # SimSiam only


@dataclass(frozen=True)
class Optim:
    """Optimiser and schedules; ``lr`` is the base rate, for a batch of 256 (the linear scaling rule)."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    lr: float = 0.3
    batch_size: int = 4096
    epochs: int = 300
    warmup_epochs: float = 10
    schedule: Literal["step", "epoch"] = "step"  # cosine by step after the warm-up, or by epoch without (SimSiam)
    weight_decay: float = 1e-6
    momentum: float = 0.9
    tau: float = 0.99  # BYOL's starting target momentum
    fixed_predictor_lr: bool = False  # SimSiam's --fix-pred-lr


@dataclass(frozen=True)
class Recipe:
    """A complete run; nothing else decides a result but the data, the device and the versions."""

    name: str
    method: Literal["byol", "simsiam"]
    architecture: str
    zero_init_residual: bool = False
    views: Views = Views()
    heads: Heads = Heads()
    optim: Optim = Optim()
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    monitor_epochs: int = 1  # the kNN monitor runs after every so many epochs; 0 turns it off
    checkpoint_steps: int = 200


def override(recipe: Recipe, assignments: list[str]) -> Recipe:
    """``["optim.lr=0.3", "views.size=48"]`` applied to ``recipe``.

    Raises:
        UserError: not ``field=value``, an unknown field (the nearest is named), or a value of another type.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes field=value, not {assignment!r}")
        recipe = _replace(recipe, path.split("."), text, path)
    return recipe


def _replace(config: Any, path: list[str], text: str, full: str) -> Any:
    types = get_type_hints(type(config))
    head, *rest = path
    if head not in types:
        near = get_close_matches(head, types, n=1, cutoff=0.0)
        raise UserError(f"--set {full}: no field {head!r}; the nearest is {near[0]!r} (of {', '.join(sorted(types))})")
    old = getattr(config, head)
    if dataclasses.is_dataclass(old):
        if not rest:
            fields = ", ".join(f.name for f in dataclasses.fields(old))
            raise UserError(f"--set {full}: name one of its fields: {fields}")
        return dataclasses.replace(config, **{head: _replace(old, rest, text, full)})
    if rest:
        raise UserError(f"--set {full}: {head!r} has no fields")
    return dataclasses.replace(config, **{head: _parse(text, types[head], full)})


def _parse(text: str, type_: Any, full: str) -> Any:
    """``text`` as the field's declared type: a number, a bool, a str, or one of a Literal's strings."""
    choices: tuple[Any, ...] = ("true", "false") if type_ is bool else get_args(type_)
    if choices:
        if text not in choices:
            raise UserError(f"--set {full}: {text!r} is none of {', '.join(choices)}")
        return text == "true" if type_ is bool else text
    try:
        return type_(text)
    except ValueError:
        raise UserError(f"--set {full}: {text!r} is no {type_.__name__}") from None


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Nested dicts, for logs, checkpoints and cards."""
    return dataclasses.asdict(recipe)


def from_json(values: dict[str, Any]) -> Recipe:
    """Inverse of ``to_json``."""
    views = values["views"]
    return Recipe(
        **values
        | {
            "views": Views(**views | {"first": View(**views["first"]), "second": View(**views["second"])}),
            "heads": Heads(**values["heads"]),
            "optim": Optim(**values["optim"]),
        }
    )
