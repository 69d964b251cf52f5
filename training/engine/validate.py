"""Checks that a recipe's parts fit together, and fit data, device and ranks, before anything is built or written."""

from __future__ import annotations

import os
import shutil

import torch

from training.distributed import collectives
from training.distributed.sync_batch_norm import group_ranks
from training.recipes.config import Recipe, check_ranges
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError


def check_run(recipe: Recipe, dataset: Dataset, device: str) -> None:
    """Check a run that is about to start or to resume.

    Raises:
        UserError: one line about the first thing that does not fit.
    """
    check_ranges(recipe)
    _check_device(device)
    _check_views(recipe)
    _check_batch(recipe, dataset)
    _check_labels(recipe, dataset)
    if recipe.compile and device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("compile=true needs a C++ compiler on the CPU: install g++, or set compile=false")


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
    count = 1 + (views.second is not None) + (views.small_count if views.small is not None else 0)
    minimum, maximum = {"supervised": (1, 1), "swav": (2, count)}.get(recipe.method, (2, 2))
    if not minimum <= count <= maximum:
        raise UserError(
            f"{recipe.method} takes {minimum} views, but {recipe.name} makes {count}: use a recipe of that method"
        )


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
    # Check that BN sees enough images.
    rows = batch // (ranks * parts)
    if recipe.method != "mocov2":
        if rows < 2:
            raise UserError(
                "a micro-batch of one image has no BN statistics: give each rank and micro-batch 2 images or more"
            )
        group_ranks(recipe.bn_group_images, rows, ranks)
        return
    # Check the parts of MoCo's split BN, and its queue.
    objective = recipe.objective
    if rows % objective.bn_parts or rows // objective.bn_parts < 2:
        raise UserError(
            f"the {rows} images of a rank's micro-batch cannot be split into {objective.bn_parts} equal parts of 2 or "
            "more for BN: change objective.bn_parts, optim.batch_size or accumulate"
        )
    keys = batch * (2 if objective.symmetric else 1)
    if objective.queue < keys:
        raise UserError(f"objective.queue={objective.queue} cannot hold the {keys} keys of one step: raise it")


def _check_labels(recipe: Recipe, dataset: Dataset) -> None:
    if recipe.method == "supervised" and int(dataset.required_labels.max()) >= recipe.heads.classes:
        raise UserError(
            f"{dataset.name} has {len(dataset.classes)} classes, {recipe.name} has {recipe.heads.classes}: "
            f"add --set heads.classes={len(dataset.classes)}"
        )
