"""What a run is: frozen dataclasses. A recipe is a function that returns a complete ``Recipe`` (``recipes.py``)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from zoo.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """Probabilities and strengths of one view; the defaults are BYOL's first ([B] app. B, table 6)."""

    min_area: float = 0.08  # of the image
    max_area: float = 1.0
    flip_p: float = 0.5
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
    """Usually a pair of views; ``operations`` says in whose arithmetic (``training.image_ops``)."""

    size: int = 224
    operations: Literal["byol", "torchvision"] = "byol"
    first: View = View()
    second: View | None = View(blur_p=0.1, solarize_p=0.2)  # None: one view, for supervised training
    small: View | None = None  # SwAV's further crops
    small_size: int = 96
    small_count: int = 0


@dataclass(frozen=True)
class Heads:
    """Sizes of the heads.

    ``hidden`` is of BYOL's projector and predictor, of SimSiam's predictor, of SwAV's projector; those of SimCLR and
    MoCo v2 keep the encoder's width.
    """

    hidden: int = 4096
    out: int = 256
    projector_layers: int = 3  # SimSiam and SimCLR
    projector_hidden: int = 0  # SimSiam; 0 keeps the encoder's width, as the official code does
    prototypes: int = 3000  # SwAV
    classes: int = 0  # supervised


@dataclass(frozen=True)
class Objective:
    """What the losses differ in; each method reads its own fields, named in its file."""

    temperature: float = 0.1  # BYOL with beta, SimCLR, MoCo v2, SwAV
    beta: float = 0.0  # BYOL: weight of negatives
    predictor: bool = True  # BYOL
    target: bool = True  # BYOL
    stop_gradient: bool = True  # SimSiam
    queue: int = 0  # MoCo v2, SwAV
    key_momentum: float = 0.999  # MoCo v2, and the two below
    symmetric: bool = False
    bn_parts: int = 1
    epsilon: float = 0.05  # SwAV, and the three below
    sinkhorn_iterations: int = 3
    queue_from_epoch: int = 15
    frozen_steps: int = 313


@dataclass(frozen=True)
class Optim:
    """Optimiser and schedules; rates are base rates, for a batch of 256 (the linear scaling rule).

    Schedules: ``step`` is BYOL's and SimCLR's (linear warm-up, then cosine), ``swav`` the same from ``start_lr`` and
    to ``final_lr``, ``epoch`` SimSiam's and MoCo v2's (cosine by epoch, no warm-up), ``decay`` a tenth after every
    ``decay_epochs``.
    """

    name: Literal["lars", "lars_classic", "larc", "sgd", "adamw"] = "lars"  # lars_classic is SimCLR's
    lr: float = 0.3
    batch_size: int = 4096
    epochs: int = 300
    warmup_epochs: float = 10
    schedule: Literal["step", "swav", "epoch", "decay"] = "step"
    start_lr: float = 0.0
    final_lr: float = 0.0
    decay_epochs: int = 30
    weight_decay: float = 1e-6
    momentum: float = 0.9
    tau: float = 0.99  # BYOL's starting target momentum
    constant_tau: bool = False  # tau stays as it is, as in table 5a's row "stop gradient of online"
    fixed_predictor_lr: bool = False  # SimSiam's --fix-pred-lr


@dataclass(frozen=True)
class Recipe:
    """A complete run; nothing else decides a result but the data, the device, the ranks and the versions.

    Attributes:
        precision: of the forward pass (autocast); parameters stay float32. fp16 has a loss scaler, whose skipped
            updates are no errors unless they never end.
        accumulate: micro-batches per optimiser step, each ``batch_size / accumulate`` images; schedules, target and
            hooks move once per step. The gradients are averaged, which without BN is exactly the large batch for BYOL
            and SimSiam. With BN each micro-batch is normalised by its own statistics (the running ones move
            ``accumulate`` times a step). SimCLR sees only the negatives of its micro-batch, 2 batch_size / accumulate
            - 2 of them, and SwAV's Sinkhorn assignment shares prototypes among the micro-batch alone (its queue
            helps): for both, more ranks are the large batch, more micro-batches are not.
        compile: ``torch.compile`` of network and loss; minutes at the start, the same numbers up to rounding.
        checkpoint_activations: the encoder's stages are computed again in the backward pass instead of kept: about a
            third more time, the same results; what makes r50x4 and r200x2 fit.
        monitor_epochs: the monitors run after every so many epochs; 0 turns them off.
        checkpoint_steps: between two checkpoints, of which the last ``keep_checkpoints`` stay.
    """

    name: str
    method: Literal["byol", "simsiam", "simclr", "mocov2", "swav", "supervised"]
    architecture: str
    stem: Literal["imagenet", "cifar"] = "imagenet"  # cifar: 3x3 convolution, no pool, for images of 32 pixels
    zero_init_residual: bool = False
    views: Views = Views()
    heads: Heads = Heads()
    objective: Objective = Objective()
    optim: Optim = Optim()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    compile: bool = False
    checkpoint_activations: bool = False
    seed: int = 0
    monitor_epochs: int = 1
    checkpoint_steps: int = 200
    keep_checkpoints: int = 2  # the newest, and the one before should it turn out damaged


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
    types = _fields(type(config))
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
    if dataclasses.is_dataclass(types[head]):
        raise UserError(f"--set {full}: this recipe has no {head!r}")
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
    """Inverse of ``to_json``; fields that an older version did not know take their defaults."""
    return _build(Recipe, values)


def _build(type_: type[T], values: dict[str, Any]) -> T:
    types = _fields(type_)
    nested = {k: _build(types[k], v) for k, v in values.items() if isinstance(v, dict)}
    return type_(**values | nested)


def _fields(type_: type) -> dict[str, Any]:
    """Names and types; of an optional dataclass, the dataclass."""
    hints = get_type_hints(type_)
    return {k: next((a for a in get_args(t) if dataclasses.is_dataclass(a)), t) for k, t in hints.items()}
