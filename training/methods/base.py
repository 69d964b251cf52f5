"""The base class of all methods, and what their hooks are told of an optimiser step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.methods.initialise import initialise
from training.recipes.config import RESNET_FIELDS, Optim, Recipe
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.models.backbones import find_backbone
from zoo.models.registry import ARCHITECTURES, Architecture
from zoo.models.resnet import build_encoder


@dataclass(frozen=True)
class StepInfo:
    """One optimiser step, whatever its number of micro-batches and ranks.

    Attributes:
        step: counted from 0.
        total_steps: steps of the whole run.
        epoch: epoch in which the step begins, counted from 0.
        tau: BYOL's target momentum at this step.
        fraction: part of that epoch that is complete before the step, from 0 to below 1.
    """

    step: int
    total_steps: int
    epoch: int
    tau: float
    fraction: float = 0.0

    @property
    def epochs(self) -> float:
        """Epochs that are complete before the step, with the part of the last one."""
        return self.epoch + self.fraction


class Method(nn.Module):
    """A network whose forward pass returns its losses, so that DDP and ``torch.compile`` can wrap it.

    The loop calls the hooks on every rank, equally often. They do nothing unless a method overrides them.

    Attributes:
        synchronised_bn: BN uses the statistics of all ranks, as in the method's paper.
        without_bn: the encoder must have no BN.
        scaled_outputs: the loss sees the length of the projections, whose standard deviation is about 1: if it falls
            to 0, the monitors call that a collapse too. The losses of most methods see the directions only.
        shift_invariant: the loss stays the same when one vector is added to all projections, as where a softmax
            compares their products with something else: the monitors then allow them a large common part.
        output_parts: equal parts of a projection that the loss compares each by itself: if one of them collapses, the
            monitors call that a collapse too.
        views: least and greatest number of views of an image; ``None`` is any number.
        uses_rows: the method keeps something for each training image, such as a memory bank: ``from_recipe`` is given
            ``images``, their number, and ``forward`` is given ``rows``, int64 [N], their numbers.
        follower_name: name of the submodule that follows the encoder by moving average, without a gradient, such as
            ``target_encoder``; empty if there is none. Estimates of a run count its weights and its forward passes.
        one_direction: unless ``objective.symmetric``, only the first large view passes the encoder, and only the second
            one its follower.
        first_view_pass: which pass of the encoder in a micro-batch has the first view, from 0. It begins with that
            view's images, in the order of the labels: the monitors take them.
        batch_loss: the loss compares the images of a micro-batch with each other, so that ``accumulate`` changes it.
            Where memory is short, a smaller batch is advised then, not more micro-batches.
        training_only: names, or beginnings of names, of submodules and buffers that an export leaves out.
        encoder: the network that is exported: float [N, 3, H, W], normalised -> [N, dim].
        projector: [N, dim] -> [N, D], watched for a collapse; the identity in a method without one.
    """

    synchronised_bn: ClassVar[bool] = True
    without_bn: ClassVar[bool] = False
    scaled_outputs: ClassVar[bool] = False
    shift_invariant: ClassVar[bool] = False
    output_parts: ClassVar[int] = 1
    views: ClassVar[tuple[int, int | None]] = (2, 2)
    uses_rows: ClassVar[bool] = False
    follower_name: ClassVar[str] = ""
    one_direction: ClassVar[bool] = False
    batch_loss: ClassVar[bool] = False
    training_only: ClassVar[tuple[str, ...]] = ("target", "key", "queue")
    first_view_pass: int = 0

    encoder: nn.Module
    projector: nn.Module

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """Build the network from torch's global random state; ``build_method`` seeds it."""
        raise NotImplementedError

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        """Raise UserError if settings do not fit the method or each other; called before the data are opened."""
        if cls.without_bn:
            with torch.device("meta"):
                encoder, _ = recipe_encoder(replace(recipe, initialiser="timm"))
            if any(isinstance(layer, _BatchNorm) for layer in encoder.modules()):
                others = ", ".join(name for name, known in ARCHITECTURES.items() if "norm_layer" in known.model_args)
                raise UserError(
                    f"{recipe.method} needs an encoder without BN, which {recipe.architecture} is not: set "
                    f"architecture to one of {others}"
                )

    @classmethod
    def check(cls, recipe: Recipe, *, rows: int, dataset: Dataset) -> None:
        """Raise UserError if the recipe's settings, which have passed ``check_settings``, do not fit batch or data.

        Args:
            rows: images of a micro-batch on one rank.
        """
        if not cls.without_bn and rows < 2:
            raise UserError(
                "a micro-batch of one image has no BN statistics: give each rank and micro-batch 2 images or more"
            )

    @classmethod
    def unreached(cls, recipe: Recipe, total_steps: int) -> list[str]:
        """Return a line for each part of the method that begins after the run's last step, such as a queue's use."""
        return []

    @classmethod
    def encoded_pixels(cls, recipe: Recipe) -> int:
        """Return how many pixels of an image pass the encoder, for an estimate of the memory: those of its views."""
        views = recipe.views
        sizes = [views.size] * (1 + (views.second is not None))
        sizes += [views.small_size] * (views.small_count if views.small is not None else 0)
        return sum(size**2 for size in sizes)

    @classmethod
    def more_memory(cls, recipe: Recipe, images: int) -> tuple[int, int]:
        """Return bytes beside the encoder's: in all, such as a memory bank's, and for each image of a micro-batch.

        Args:
            images: number of training images.
        """
        return 0, 0

    def parameter_groups(self, optim: Optim) -> list[dict[str, object]] | None:
        """Return the optimiser's parameter groups; ``None`` takes those that the optimiser usually has.

        A group can have ``lr_scale``, by which the scheduled learning rate is multiplied.
        """
        return None

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Views [N, 3, H, W], normalised, and labels int64 [N] -> named scalars, whose sum is minimised.

        Called once per micro-batch. A loss is the mean over its samples; accumulation averages the micro-batches.
        """
        raise NotImplementedError

    def before_step(self, info: StepInfo) -> None:
        """Called once per optimiser step, before its first micro-batch."""

    def before_update(self, info: StepInfo) -> None:
        """Called after the last micro-batch's backward pass, before the optimiser's update."""

    def after_step(self, info: StepInfo) -> None:
        """Called after the optimiser's update."""

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the encoder's state for a plain network of the recipe's architecture, such as a copy to finetune."""
        return self.encoder.state_dict()

    def before_export(self) -> None:
        """Called before an export writes the encoder, which must be as the table of architectures says."""


def recipe_architecture(recipe: Recipe) -> Architecture:
    """Return the recipe's encoder as the registry describes it, or as timm does for the recipe's views.

    Raises:
        UserError: the architecture is unknown, does not take the views, or lacks a setting such as ``project_first``.
    """
    views = recipe.views
    sizes = (views.size, *((views.small_size,) if views.small is not None and views.small_count else ()))
    known = ARCHITECTURES.get(recipe.architecture) or find_backbone(recipe.architecture, sizes)
    if not known.is_resnet:
        for each in fields(recipe):
            if each.name in RESNET_FIELDS and (value := getattr(recipe, each.name)) != each.default:
                raise UserError(
                    f"{each.name}={value} is for ResNets, not for {recipe.architecture}: set it to {each.default}"
                )
        return known
    if recipe.project_first and not known.can_project_first:
        raise UserError(f"project_first is for r18, not for {recipe.architecture}: set it to false")
    project_first = recipe.project_first or known.project_first
    return known.variant(stem=recipe.stem, padding=recipe.padding, project_first=project_first)


def recipe_encoder(recipe: Recipe) -> tuple[nn.Module, int]:
    """Return a randomly initialised encoder and the size of its output.

    Raises:
        UserError: see ``recipe_architecture``.
    """
    architecture = recipe_architecture(recipe)
    encoder = build_encoder(architecture, zero_init_residual=recipe.zero_init_residual)
    initialise(encoder, recipe.initialiser)
    return encoder, architecture.num_features
