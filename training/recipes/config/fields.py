"""The configuration of a run: frozen dataclasses. A recipe is a function that returns a complete ``Recipe``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from training.recipes.config.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    UnitInterval,
)
from zoo.models.registry import ARCHITECTURES, RESNETS

RESNET_FIELDS = frozenset(("stem", "zero_init_residual", "padding", "project_first", "initialiser"))
"""Fields of ``Recipe`` that only a ResNet has; every other network keeps their defaults."""

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
            ``torchvision-bicubic`` has PIL's bicubic for ``torchvision``'s bilinear.
        second: ``None`` makes one view, for supervised training.
        small: SwAV's small crops, ``small_count`` of them.
    """

    size: PositiveInt = 224
    operations: Literal["byol", "simclr", "torchvision", "torchvision-bicubic"] = "byol"
    first: View = View()
    second: View | None = View(blur_p=0.1, solarize_p=0.2)
    small: View | None = None
    small_size: PositiveInt = 96
    small_count: Annotated[int, Range(0, 1000)] = 0  # SwAV has 6
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
    projector_layers: Annotated[int, Range(1, 20)] = 3  # SimSiam and SimCLR; the papers have 2 and 3
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


def is_resnet(architecture: str) -> bool:
    """True for the ResNets of the registry, and for those of timm that have a stem and a padding as they do."""
    return architecture in ARCHITECTURES or (architecture in RESNETS and not architecture.startswith("resnetv2"))
