"""Build a run at step 0: network, distribution over ranks, monitor and optimiser."""

from __future__ import annotations

from pathlib import Path

import torch

from training.distributed import collectives
from training.distributed.sync_batch_norm import group_ranks, synchronise_batch_norm
from training.engine.optim import build_optimiser
from training.engine.state import Run
from training.methods import Method
from training.methods.base import recipe_architecture
from training.monitoring.hardware import hardware
from training.monitoring.online_probe import OnlineMonitor
from training.recipes.config import Recipe
from zoo.datasets.dataset import Dataset
from zoo.models.backbones import recompute_activations
from zoo.models.memory_format import training_format
from zoo.models.registry import Architecture


def new_run(recipe: Recipe, dataset: Dataset, folder: Path, device: torch.device, method: Method) -> Run:
    """Return a run at step 0 that trains ``method`` on ``device``."""
    # Network: BN synchronised before DDP, hooks of the monitor before torch.compile.
    method.to(device).to(memory_format=training_format(method, device)).train()
    if recipe.checkpoint_activations:
        recompute_activations(method.encoder, recipe.architecture)
    # Share the BN statistics between as many ranks as the recipe asks for.
    ranks = collectives.world_size()
    rows = recipe.optim.batch_size // ranks // recipe.accumulate
    if ranks > 1 and method.synchronised_bn:
        group = collectives.neighbours(group_ranks(recipe.bn_group_images, rows, ranks))
        synchronise_batch_norm(method, device, group)
    # If there are labels, the probe of the first rank alone learns.
    classes = 0 if dataset.labels is None or collectives.rank() else int(dataset.labels.max()) + 1
    architecture = recipe_architecture(recipe)
    dim = architecture.num_features
    monitor = OnlineMonitor(method, dim=dim, classes=classes, rows=rows, device=device)
    if recipe.compile:
        method.compile()
    # Join the parts, with DDP and the optimiser on the finished network.
    return Run(
        recipe,
        dataset,
        folder,
        device,
        method,
        collectives.distributed_data_parallel(method, device),
        build_optimiser(method, recipe.optim, decay_vectors=architecture.is_resnet),
        torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16"),
        monitor,
        [hardware(device, ranks)],
        notes=_backbone_notes(architecture),
    )


def _backbone_notes(architecture: Architecture) -> list[str]:
    if architecture.is_resnet:
        return []
    args = ", ".join(f"{k}={v}" for k, v in architecture.model_args.items())
    return [
        f"the encoder is timm's {architecture.timm_name}{f' ({args})' if args else ''}, {architecture.num_features} "
        f"numbers an image, {architecture.parameters / 1e6:.3f} M parameters, with timm's initial weights"
    ]
