"""The configuration of a run: frozen dataclasses. A recipe is a function that returns a complete ``Recipe``.

The type of a number states its range, and ``check_ranges`` enforces it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from zoo.errors import UserError, closest_name
from zoo.models.registry import ARCHITECTURES, RESNETS
from zoo.system.json_types import JSON

T = TypeVar("T")
RESNET_FIELDS = frozenset(("stem", "zero_init_residual", "padding", "project_first", "initialiser"))
"""Fields of ``Recipe`` that only a ResNet has; every other network keeps their defaults."""


@dataclass(frozen=True)
class Range:
    """Inclusive range of a finite number; ``above`` makes the lower bound exclusive."""

    minimum: float
    maximum: float = inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        in_bounds = self.minimum <= value <= self.maximum and not (self.above and value == self.minimum)
        return in_bounds and abs(value) != inf

    def __str__(self) -> str:
        if self.maximum < inf:
            return f"between {self.minimum:g} and {self.maximum:g}"
        return f"above {self.minimum:g}" if self.above else f"{self.minimum:g} or more"


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
UnitInterval = Annotated[float, Range(0, 1)]
PositiveFloat = Annotated[float, Range(0, above=True)]
NonNegativeFloat = Annotated[float, Range(0)]

Option = bool | int | float | str
"""A value of ``Recipe.options``."""


@dataclass(frozen=True)
class View:
    """Probabilities and strengths of one view's augmentation; the defaults are BYOL's first view ([B] app. B, table 6).

    Areas are fractions of the image.
    """

    min_area: UnitInterval = 0.08
    max_area: Annotated[float, Range(0, 1, above=True)] = 1.0
    flip_p: UnitInterval = 0.5
    jitter_p: UnitInterval = 0.8
    brightness: UnitInterval = 0.4
    contrast: UnitInterval = 0.4
    saturation: UnitInterval = 0.2
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    grayscale_p: UnitInterval = 0.2
    blur_p: UnitInterval = 1.0
    solarize_p: UnitInterval = 0.0
    rand_augment: NonNegativeInt = 0  # InfoMin: operations of RandAugment, between blur and grayscale
    cells: PositiveInt = 1  # PIRL: flip and colours are drawn for each cell of a grid of so many rows and columns


@dataclass(frozen=True)
class Views:
    """The views made from each image; sizes are in pixels.

    Views are normalised with ImageNet's mean and standard deviation. SwAV's code uses another deviation for red.

    Attributes:
        operations: the code whose crops and arithmetic the views follow (``training.data.augment_ops``). ``simclr``
            differs from ``byol`` in the crop alone: TensorFlow's kernel draws its size, TF 1's bicubic resizes it.
        second: ``None`` makes one view, for supervised training.
        small: SwAV's small crops, ``small_count`` of them.
    """

    size: PositiveInt = 224
    operations: Literal["byol", "simclr", "torchvision"] = "byol"
    first: View = View()
    second: View | None = View(blur_p=0.1, solarize_p=0.2)
    small: View | None = None
    small_size: PositiveInt = 96
    small_count: NonNegativeInt = 0
    red_std: PositiveFloat = 0.229

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of red, green and blue; pixels are in [0, 1]."""
        return self.red_std, 0.224, 0.225


@dataclass(frozen=True)
class Heads:
    """Sizes of the heads.

    ``hidden`` sets BYOL's projector and predictor, SimSiam's predictor and SwAV's projector. The projectors of SimCLR
    and MoCo v2 keep the encoder's width.
    """

    hidden: PositiveInt = 4096
    out: PositiveInt = 256
    projector_layers: PositiveInt = 3  # SimSiam and SimCLR
    projector_hidden: NonNegativeInt = 0  # SimSiam; 0 keeps the encoder's width, as the official code does
    mlp_layers: Annotated[int, Range(1, 3)] = 2  # of the projector of MoCo v2 and SwAV, 2 in both papers
    prototypes: PositiveInt = 3000  # SwAV
    classes: NonNegativeInt = 0  # supervised


@dataclass(frozen=True)
class Objective:
    """Settings of the losses; each method reads the fields that its file names."""

    temperature: PositiveFloat = 0.1  # BYOL with beta, SimCLR, MoCo v2, SwAV
    beta: UnitInterval = 0.0  # BYOL: weight of negatives
    predictor: bool = True  # BYOL
    target: bool = True  # BYOL
    stop_gradient: bool = True  # SimSiam
    queue: NonNegativeInt = 0  # MoCo v2, SwAV; 0 for none
    key_momentum: UnitInterval = 0.999  # MoCo v2, and the two below
    symmetric: bool = False
    bn_parts: PositiveInt = 1
    epsilon: PositiveFloat = 0.05  # SwAV, and the three below
    sinkhorn_iterations: PositiveInt = 3
    queue_from_epoch: NonNegativeInt = 15
    frozen_steps: NonNegativeInt = 313


@dataclass(frozen=True)
class Optim:
    """Optimiser and schedules; learning rates are base rates for a batch of 256 (the linear scaling rule).

    Schedules: ``step`` is BYOL's and SimCLR's (linear warm-up, then cosine to ``final_lr``). ``swav`` is the same from
    ``start_lr``. ``epoch`` is SimSiam's and MoCo v2's (cosine by epoch, no warm-up). ``epoch_end`` is PyContrast's:
    the same to ``final_lr``, where epoch e has the rate of e + 1. ``decay`` divides by ten after every
    ``decay_epochs``, or first after ``decay_start`` epochs and then after every ``decay_epochs``.
    """

    name: Literal["lars", "lars_classic", "larc", "sgd", "adamw"] = "lars"  # lars_classic is SimCLR's
    lr: NonNegativeFloat = 0.3
    batch_size: PositiveInt = 4096
    epochs: PositiveInt = 300
    drop_last: bool = True  # leave out an epoch's last images that fill no batch (``training.data.sampler``)
    warmup_epochs: NonNegativeFloat = 10
    schedule: Literal["step", "swav", "epoch", "epoch_end", "decay"] = "step"
    start_lr: NonNegativeFloat = 0.0
    final_lr: NonNegativeFloat = 0.0
    decay_epochs: PositiveInt = 30
    decay_start: NonNegativeInt = 0  # 0 for ``decay_epochs``
    weight_decay: NonNegativeFloat = 1e-6
    momentum: UnitInterval = 0.9
    tau: UnitInterval = 0.99  # BYOL's starting target momentum
    constant_tau: bool = False  # keep tau constant, as in table 5a's row "stop gradient of online"
    fixed_predictor_lr: bool = False  # SimSiam's --fix-pred-lr


@dataclass(frozen=True)
class Recipe:
    """A complete run. Apart from it, only the data, the device, the ranks and the library versions affect a result.

    Attributes:
        method: a built-in method, or where another one's class is: ``module:Class``, or the name of an entry point
            (``training.methods.find_method``).
        architecture: a ResNet of the registry (``zoo.models.registry.ARCHITECTURES``), or timm's name of any network
            that gives pooled features. ``stem``, ``zero_init_residual``, ``padding``, ``project_first`` and
            ``initialiser`` are those of ResNets; ``override`` resets them for another network.
        options: constants that one method alone has, or one that is not built in; it reads them in ``from_recipe``.
        padding: of the encoder's strided layers: ``symmetric`` is PyTorch's, ``same`` TensorFlow's (BYOL's official
            code), ``same-pool`` TensorFlow's in the max-pool only (SimCLR's). An exported encoder keeps it.
        project_first: a projection in the first block's shortcut of r18, as in DeepMind's networks.
        initialiser: of the weights: ``timm`` leaves what timm and torch draw; ``haiku`` and ``tensorflow`` are those of
            BYOL's and SimCLR's official codes (``training.methods.initialise``).
        bn_group_images: BN uses the statistics of groups of neighbouring ranks with so many images each (of one view or
            crop), as SwAV's official scripts do; 0, or a batch that is no larger, makes one group of all ranks.
        precision: autocast precision of the forward pass; parameters stay float32. fp16 uses a loss scaler, whose
            skipped updates are an error only when they never end. fp32 also turns TF32 off, which torch would
            otherwise use in convolutions. The recipes of published runs default to bf16 although the originals were
            fp32 (SwAV: apex O1, fp16): ``--set precision=fp32`` reproduces their arithmetic.
        accumulate: micro-batches per optimiser step, of ``batch_size / accumulate`` images each. Schedules, target
            network and hooks advance once per step. Gradients are averaged, which without BN equals the large batch
            for BYOL and SimSiam. BN uses the statistics of each micro-batch, and its running statistics are updated
            ``accumulate`` times a step. SimCLR has only the 2 batch_size / accumulate - 2 negatives of its
            micro-batch. SwAV's Sinkhorn assignment spreads each micro-batch over the prototypes by itself (its queue
            helps). For these two, use more ranks instead to train with a large batch.
        compile: apply ``torch.compile`` to network and loss: minutes at the start, equal numbers up to rounding.
        checkpoint_activations: recompute the encoder's stages in the backward pass instead of keeping them: about a
            third more time, equal results. r50x4 and r200x2 need it to fit into memory.
        monitor_epochs: epochs between two evaluations by the monitors; 0 turns them off.
        early_stop_patience: end the run when so many evaluations in a row have no kNN above the best one before them;
            0 never does.
        finetune_epochs: epochs between two finetunings of a copy of the encoder on labelled training images
            (``training.monitoring.finetune_probe``); 0 turns them off.
        checkpoint_steps: steps between two checkpoints; the last ``keep_checkpoints`` are kept.
    """

    name: str
    method: str
    architecture: str
    stem: Literal["imagenet", "cifar"] = "imagenet"  # cifar: 3x3 convolution, no pool, for images of 32 pixels
    zero_init_residual: bool = False
    padding: Literal["symmetric", "same", "same-pool"] = "symmetric"
    project_first: bool = False
    initialiser: Literal["timm", "haiku", "tensorflow"] = "timm"
    bn_group_images: NonNegativeInt = 0
    views: Views = Views()
    heads: Heads = Heads()
    objective: Objective = Objective()
    optim: Optim = Optim()
    options: Mapping[str, Option] = field(default_factory=dict)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: PositiveInt = 1
    compile: bool = False
    checkpoint_activations: bool = False
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    monitor_epochs: NonNegativeInt = 1
    early_stop_patience: NonNegativeInt = 0
    finetune_epochs: NonNegativeInt = 0
    checkpoint_steps: PositiveInt = 200
    keep_checkpoints: PositiveInt = 2  # the newest, and the one before in case the newest is damaged


# ---------------------------------------------------------------- overrides and ranges


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
        path = _full_path(recipe, path)
        recipe = _with_field(recipe, path.split("."), text, path)
        assigned.add(path)
    if "architecture" in assigned and not is_resnet(recipe.architecture):
        defaults = {f.name: f.default for f in dataclasses.fields(Recipe) if f.name in RESNET_FIELDS - assigned}
        recipe = dataclasses.replace(recipe, **cast(dict[str, Any], defaults))
    check_ranges(recipe)
    return recipe


def is_resnet(architecture: str) -> bool:
    """True for the ResNets of the registry, and for those of timm that have a stem and a padding as they do."""
    return architecture in ARCHITECTURES or (architecture in RESNETS and architecture != "resnetv2_50")


def check_ranges(config: object, path: str = "") -> None:
    """Check every number of a recipe, or of its part at ``path``.

    Raises:
        UserError: a number is out of its range; the message names the first one.
    """
    for name, hint in _field_types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{path}{name}.")
        for allowed in (a for a in get_args(hint) if isinstance(a, Range)):
            if value not in allowed:
                raise UserError(f"{path}{name}={value} is out of range: it must be {allowed}")


def _full_path(recipe: Recipe, path: str) -> str:
    """Return the path of the one field that ends in ``path``, or ``path`` itself where there is none."""
    if path.partition(".")[0] in _field_types(Recipe):
        return path
    found = [field for field in _field_paths(recipe) if field.endswith(f".{path}")]
    if len(found) > 1:
        raise UserError(f"--set {path} could be {', '.join(found[:-1])} or {found[-1]}: give one of them")
    return found[0] if found else path


def _field_paths(config: object, path: str = "") -> Iterator[str]:
    """Yield the path of every value of a recipe, or of its part at ``path``."""
    for name in _field_types(type(config)):
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
    types = _field_types(type(config))
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
            raise UserError(f"--set {option}: name one of its fields: {', '.join(_field_types(type(old)))}")
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
    fields: dict[str, Any] = {field: getattr(config, field) for field in _field_types(type(config))}
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


# ---------------------------------------------------------------- JSON


def to_json(recipe: Recipe) -> dict[str, JSON]:
    """Return nested dicts, as logs, checkpoints and cards store them.

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
    types = _field_types(type_)
    if unknown := sorted(values.keys() - types.keys()):
        raise UserError(f"the recipe has a field {unknown[0]!r}, which this version does not know: update siamese-zoo")
    groups = {k: v for k, v in values.items() if isinstance(v, dict) and dataclasses.is_dataclass(types[k])}
    nested: dict[str, Any] = {k: _built(types[k], v) for k, v in groups.items()}
    try:
        return type_(**{**values, **nested})
    except TypeError as error:
        raise UserError(f"the recipe is incomplete ({error})") from None


def differences(ours: object, theirs: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield path and both values of every field in which two recipes, or two of their parts, differ."""
    if type(ours) is not type(theirs) or not dataclasses.is_dataclass(ours):
        if ours != theirs:
            yield path, ours, theirs
        return
    for each in dataclasses.fields(ours):
        below = f"{path}.{each.name}" if path else each.name
        yield from differences(getattr(ours, each.name), getattr(theirs, each.name), below)


def _field_types(type_: type) -> dict[str, Any]:
    """Return the fields' names and types; an optional dataclass is given as the dataclass."""

    def required(hint: object) -> object:
        return next((a for a in get_args(hint) if isinstance(a, type) and dataclasses.is_dataclass(a)), hint)

    return {name: required(hint) for name, hint in get_type_hints(type_, include_extras=True).items()}
