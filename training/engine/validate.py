"""Checks that a recipe's parts fit together, and fit data, device and ranks, before anything is built or written."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor

from training.distributed import collectives
from training.distributed.sync_batch_norm import group_ranks
from training.methods import find_method
from training.recipes.config import Recipe, check_ranges
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError


def check_settings(recipe: Recipe) -> None:
    """Check what is wrong with any data, on any device and with any number of ranks.

    Raises:
        UserError: one line about the first thing that does not fit.
    """
    check_ranges(recipe)
    _check_views(recipe)
    find_method(recipe.method).check_settings(recipe)


def check_run(recipe: Recipe, dataset: Dataset, device: str) -> None:
    """Check a run that is about to start or to resume.

    Raises:
        UserError: one line about the first thing that does not fit.
    """
    check_settings(recipe)
    _check_device(device)
    _check_batch(recipe, dataset)
    _check_monitors(recipe, dataset)
    if recipe.compile and device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("compile=true needs a C++ compiler on the CPU: install g++, or set compile=false")


def check_losses(method: str, losses: object) -> None:
    """Check what the forward pass of a method, such as one of the user's own, has returned.

    Raises:
        UserError: it is no dict of scalar tensors with a ``loss``, or nothing in it can be trained.
    """
    if not isinstance(losses, dict):
        raise UserError(f"forward of {method} returned {type(losses).__name__}: it must return a dict of losses")
    if "loss" not in losses:
        names = ", ".join(map(str, losses)) or "nothing"
        raise UserError(f"forward of {method} returned a dict of {names}: one of its losses must be called 'loss'")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.ndim:
            kind = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"{name!r} of {method} is {kind}: a loss is a tensor without axes, as a mean over images is"
            )
    if not any(value.requires_grad for value in losses.values()):
        raise UserError(f"no loss of {method} has a gradient: compute it from what self.encoder returns, undetached")


def _check_device(device: str) -> None:
    try:
        kind, number = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError:
        raise UserError(f"no device {device!r}: give cpu, cuda or cuda:1") from None
    if kind not in ("cpu", "cuda"):
        raise UserError(f"training on {kind!r} is not supported: give cpu, cuda or cuda:1")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and not count:
        raise UserError("no CUDA device here: use --device cpu")
    if kind == "cuda" and number >= count:
        raise UserError(f"no {device} here: the last one is cuda:{count - 1}")


def _check_views(recipe: Recipe) -> None:
    views = recipe.views
    for name, view in (("first", views.first), ("second", views.second), ("small", views.small)):
        if view is not None and view.min_area > view.max_area:
            raise UserError(f"views.{name}.min_area={view.min_area:g} is above its max_area={view.max_area:g}")
        side = views.small_size if name == "small" else views.size
        if view is not None and side % view.cells:
            raise UserError(f"views.{name}.cells={view.cells} does not divide the view's {side} pixels")
    count = 1 + (views.second is not None) + (views.small_count if views.small is not None else 0)
    minimum, maximum = find_method(recipe.method).views
    if not minimum <= count <= (count if maximum is None else maximum):
        raise UserError(
            f"{recipe.method} takes {minimum} views, but {recipe.name} makes {count}: use a recipe of that method"
        )


def _check_monitors(recipe: Recipe, dataset: Dataset) -> None:
    if recipe.early_stop_patience and not recipe.monitor_epochs:
        raise UserError("early_stop_patience needs the kNN of the monitors: set monitor_epochs to 1 or more")
    for name in ("early_stop_patience", "finetune_epochs"):
        if getattr(recipe, name) and dataset.labels is None:
            raise UserError(f"{name} needs labels: {dataset.name} has none, so leave it 0")


def _check_batch(recipe: Recipe, dataset: Dataset) -> None:
    batch, ranks, parts = recipe.optim.batch_size, collectives.world_size(), recipe.accumulate
    # Check that the data fill one batch.
    if len(dataset) < batch:
        raise UserError(
            f"{dataset.name} has {len(dataset)} images, fewer than a batch of {batch}: "
            "add images or --set optim.batch_size=N"
        )
    # Check that the batch divides evenly among ranks and micro-batches.
    if batch % (ranks * parts):
        raise UserError(
            f"a batch of {batch} cannot be split evenly over {ranks} ranks x {parts} micro-batches: "
            "change optim.batch_size or accumulate"
        )
    # Check what the method needs, and that the ranks can be grouped for BN.
    method, rows = find_method(recipe.method), batch // (ranks * parts)
    method.check(recipe, rows=rows, dataset=dataset)
    if method.synchronised_bn:
        group_ranks(recipe.bn_group_images, rows, ranks)
