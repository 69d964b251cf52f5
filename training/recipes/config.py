"""What a run is: frozen dataclasses. A recipe is a function that returns a complete ``Recipe`` (``recipes.py``).

Numbers say with their type in which range they make sense; ``check_ranges`` holds values against it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from zoo.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Of a number, ends included; ``least`` alone is not where ``above`` says so."""

    least: float
    most: float = inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and abs(value) != inf and not (self.above and value == self.least)

    def __str__(self) -> str:
        if self.most < inf:
            return f"between {self.least:g} and {self.most:g}"
        return f"above {self.least:g}" if self.above else f"{self.least:g} or more"


Count = Annotated[int, Range(1)]
CountOrNone = Annotated[int, Range(0)]  # 0 for none
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]


@dataclass(frozen=True)
class View:
    """Probabilities and strengths of one view; the defaults are BYOL's first ([B] app. B, table 6)."""

    min_area: Share = 0.08  # of the image
    max_area: Annotated[float, Range(0, 1, above=True)] = 1.0
    flip_p: Share = 0.5
    jitter_p: Share = 0.8
    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.2
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    grayscale_p: Share = 0.2
    blur_p: Share = 1.0
    solarize_p: Share = 0.0


@dataclass(frozen=True)
class Views:
    """Usually a pair of views; ``operations`` says in whose arithmetic (``training.data.augment_ops``).

    They are normalised with ImageNet's mean and std, of which ``red_std`` is the first: SwAV's codes have another.
    """

    size: Count = 224
    operations: Literal["byol", "torchvision"] = "byol"
    first: View = View()
    second: View | None = View(blur_p=0.1, solarize_p=0.2)  # None: one view, for supervised training
    small: View | None = None  # SwAV's further crops
    small_size: Count = 96
    small_count: CountOrNone = 0
    red_std: Positive = 0.229

    @property
    def std(self) -> tuple[float, float, float]:
        """Of red, green and blue in [0, 1]."""
        return self.red_std, 0.224, 0.225


@dataclass(frozen=True)
class Heads:
    """Sizes of the heads.

    ``hidden`` is of BYOL's projector and predictor, of SimSiam's predictor, of SwAV's projector; those of SimCLR and
    MoCo v2 keep the encoder's width.
    """

    hidden: Count = 4096
    out: Count = 256
    projector_layers: Count = 3  # SimSiam and SimCLR
    projector_hidden: CountOrNone = 0  # SimSiam; 0 keeps the encoder's width, as the official code does
    prototypes: Count = 3000  # SwAV
    classes: CountOrNone = 0  # supervised


@dataclass(frozen=True)
class Objective:
    """What the losses differ in; each method reads its own fields, named in its file."""

    temperature: Positive = 0.1  # BYOL with beta, SimCLR, MoCo v2, SwAV
    beta: Share = 0.0  # BYOL: weight of negatives
    predictor: bool = True  # BYOL
    target: bool = True  # BYOL
    stop_gradient: bool = True  # SimSiam
    queue: CountOrNone = 0  # MoCo v2, SwAV
    key_momentum: Share = 0.999  # MoCo v2, and the two below
    symmetric: bool = False
    bn_parts: Count = 1
    epsilon: Positive = 0.05  # SwAV, and the three below
    sinkhorn_iterations: Count = 3
    queue_from_epoch: CountOrNone = 15
    frozen_steps: CountOrNone = 313


@dataclass(frozen=True)
class Optim:
    """Optimiser and schedules; rates are base rates, for a batch of 256 (the linear scaling rule).

    Schedules: ``step`` is BYOL's and SimCLR's (linear warm-up, then cosine), ``swav`` the same from ``start_lr`` and
    to ``final_lr``, ``epoch`` SimSiam's and MoCo v2's (cosine by epoch, no warm-up), ``decay`` a tenth after every
    ``decay_epochs``.
    """

    name: Literal["lars", "lars_classic", "larc", "sgd", "adamw"] = "lars"  # lars_classic is SimCLR's
    lr: NotNegative = 0.3
    batch_size: Count = 4096
    epochs: Count = 300
    drop_last: bool = True  # ``training.data.sampler``: an epoch's last images that fill no batch are left out
    warmup_epochs: NotNegative = 10
    schedule: Literal["step", "swav", "epoch", "decay"] = "step"
    start_lr: NotNegative = 0.0
    final_lr: NotNegative = 0.0
    decay_epochs: Count = 30
    weight_decay: NotNegative = 1e-6
    momentum: Share = 0.9
    tau: Share = 0.99  # BYOL's starting target momentum
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
    accumulate: Count = 1
    compile: bool = False
    checkpoint_activations: bool = False
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    monitor_epochs: CountOrNone = 1
    checkpoint_steps: Count = 200
    keep_checkpoints: Count = 2  # the newest, and the one before should it turn out damaged


def override(recipe: Recipe, assignments: list[str]) -> Recipe:
    """``["optim.lr=0.3", "views.size=48"]`` applied to ``recipe``.

    Raises:
        UserError: not ``field=value``, an unknown field (the nearest is named), or a value of another type or out of
            the field's range.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set takes field=value, not {assignment!r}")
        recipe = _replace(recipe, path.split("."), text, path)
    check_ranges(recipe)
    return recipe


def check_ranges(config: Any, path: str = "") -> None:
    """A UserError for the first number of a recipe, or of a part of it at ``path``, that is out of its range."""
    for name, type_ in _fields(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{path}{name}.")
        for allowed in (a for a in get_args(type_) if isinstance(a, Range)):
            if value not in allowed:
                raise UserError(f"{path}{name}={value} is out of range: it must be {allowed}")


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
    """``text`` as the field's declared type: a bool, a str, one of a Literal's strings, or a number."""
    if type_ is str:
        return text
    if type_ is bool:
        return _one_of(("true", "false"), text, full) == "true"
    if get_origin(type_) is Literal:
        return _one_of(get_args(type_), text, full)
    number, _ = get_args(type_)  # Annotated
    try:
        return number(text)
    except ValueError:
        raise UserError(f"--set {full}: {text!r} is no {number.__name__}") from None


def _one_of(choices: tuple[str, ...], text: str, full: str) -> str:
    if text not in choices:
        raise UserError(f"--set {full}: {text!r} is none of {', '.join(choices)}")
    return text


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Nested dicts, for logs, checkpoints and cards."""
    return dataclasses.asdict(recipe)


def from_json(values: dict[str, Any]) -> Recipe:
    """Inverse of ``to_json``; fields that an older version did not know take their defaults.

    Raises:
        UserError: it has fields that this version does not know, or lacks some.
    """
    return _build(Recipe, values)


def _build(type_: type[T], values: dict[str, Any]) -> T:
    types = _fields(type_)
    if unknown := sorted(values.keys() - types.keys()):
        raise UserError(f"a recipe with {unknown[0]!r}, which this version does not know: update siamese-zoo")
    nested = {k: _build(types[k], v) for k, v in values.items() if isinstance(v, dict)}
    try:
        return type_(**values | nested)
    except TypeError as error:
        raise UserError(f"not a whole recipe ({error})") from None


def _fields(type_: type) -> dict[str, Any]:
    """Names and types; of an optional dataclass, the dataclass."""

    def plain(hint: Any) -> Any:
        return next((a for a in get_args(hint) if isinstance(a, type) and dataclasses.is_dataclass(a)), hint)

    return {name: plain(hint) for name, hint in get_type_hints(type_, include_extras=True).items()}
