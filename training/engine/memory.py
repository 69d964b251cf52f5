"""Estimate what a run needs before it starts: a run that cannot fit is refused with the settings that would."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from training.methods import build_method, find_method
from training.methods.base import recipe_architecture
from training.recipes.config import Recipe
from zoo.errors import UserError
from zoo.models.backbones import recompute_activations
from zoo.models.registry import Architecture
from zoo.models.resnet import build_encoder

_COPIES = {"sgd": 3, "lars": 3, "lars_classic": 3, "larc": 3, "adamw": 4}  # weights, gradients, optimiser state
_OTHER = 0.7 * 2**30  # bytes: torch itself, batches of images, the workspace of convolutions
_FEW = 2  # training images, for which a memory bank costs nothing: the estimate counts it
_COUNTED: dict[str, tuple[float, int]] = {}
_MEASURED_SIDE = 64  # pixels of the images on which activations are counted; they grow with the area


@dataclass(frozen=True)
class Estimate:
    """Estimated memory of a run on one device.

    Attributes:
        fixed: bytes of weights, gradients, optimiser state, a memory bank or queue, and the libraries.
        image: bytes of the activations of one image, all its views, and of the rows it is scored against.
        images: images of a micro-batch.
    """

    fixed: int
    image: int
    images: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.fixed + self.image * self.images


def estimate(recipe: Recipe, ranks: int = 1, images: int = 0) -> Estimate:
    """Return the memory that a run needs on one device; nothing is allocated for it.

    Args:
        images: number of training images, for each of which a memory bank has a vector.
    """
    architecture, method = recipe_architecture(recipe), find_method(recipe.method)
    per_area, parameters = _activations(architecture, recipe.checkpoint_activations)
    value = 4 if recipe.precision == "fp32" else 2
    image = round(method.encoded_pixels(recipe) * per_area * value)
    kept, scored = method.more_memory(recipe, images)
    # A network that follows the encoder has weights, but keeps no activations for a backward pass.
    copies = _COPIES[recipe.optim.name] + bool(method.follower_name)
    rows = recipe.optim.batch_size // ranks // recipe.accumulate
    return Estimate(round(parameters * 4 * copies + _OTHER) + kept, image + scored, rows)


def require_fit(recipe: Recipe, device: torch.device, ranks: int = 1, images: int = 0) -> None:
    """Refuse a run that needs more memory than the device has.

    Args:
        images: number of training images.

    Raises:
        UserError: it cannot fit; the message names the settings that would.
    """
    limit = device_memory(device)
    if limit is None:
        return
    found = estimate(recipe, ranks, images)
    if found.total <= limit:
        _require_heads_fit(recipe, device, limit)
        return
    raise UserError(
        f"{recipe.name} needs about {found.total / 1e9:.1f} GB on {device}, which has {limit / 1e9:.1f}: "
        f"{_advice(recipe, limit, ranks, images)}"
    )


def _require_heads_fit(recipe: Recipe, device: torch.device, limit: int) -> None:
    """Refuse heads, prototypes or a queue that alone need more than ``limit`` bytes; the estimate is of the encoder.

    Linux gives memory that it does not have, and ends the process once the weights are drawn.
    """
    copies = _COPIES[recipe.optim.name]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            method = build_method(recipe, _FEW)
        parameters = sum(p.numel() * 4 * (copies if p.requires_grad else 1) for p in method.parameters())
        size: float = parameters + sum(buffer.numel() * 4 for buffer in method.buffers())
    except RuntimeError as error:
        if "overflow" not in str(error):
            return  # a method of the user's own, or a network of timm's, that cannot be built without memory
        size = inf
    except Exception:
        return
    if size > limit:
        raise UserError(
            f"the weights of {recipe.name} with their gradients and the optimiser's state need {size / 1e9:.3g} GB on "
            f"{device}, which has {limit / 1e9:.1f}: make the heads smaller (heads.hidden={recipe.heads.hidden}, "
            f"heads.out={recipe.heads.out}, heads.prototypes={recipe.heads.prototypes}), or objective.queue"
        )


def fitting(recipe: Recipe, limit: int, ranks: int = 1, images: int = 0) -> list[list[str]]:
    """Return ways to make a run fit into ``limit`` bytes, each a list of ``--set`` values, the least change first.

    They keep the batch (``accumulate``), make it smaller, or recompute activations as well. Where the loss changes with
    the micro-batch, only the batch itself is made smaller. One empty list means that it fits as it is, no list that no
    batch of it does.
    """
    if estimate(recipe, ranks, images).total <= limit:
        return [[]]
    ways = []
    for recompute in dict.fromkeys((recipe.checkpoint_activations, True)):
        changed = replace(recipe, checkpoint_activations=recompute)
        also = ["checkpoint_activations=true"] if recompute and not recipe.checkpoint_activations else []
        if (halvings := _halvings(changed, limit, ranks, images)) is None:
            continue
        if also and not halvings:
            ways.append(also)
            continue
        smaller = [f"optim.batch_size={recipe.optim.batch_size // 2**halvings}", *also]
        if not find_method(recipe.method).batch_loss:
            ways.append([f"accumulate={recipe.accumulate * 2**halvings}", *also])
        ways.append(smaller)
    return ways


def _halvings(recipe: Recipe, limit: int, ranks: int, images: int) -> int | None:
    """Return how often the micro-batch must be halved to fit; ``None`` if no micro-batch of two images or more does."""
    for halvings in range(13):
        parts = recipe.accumulate * 2**halvings
        if recipe.optim.batch_size % (parts * ranks) or recipe.optim.batch_size // parts // ranks < 2:
            return None
        if estimate(replace(recipe, accumulate=parts), ranks, images).total <= limit:
            return halvings
    return None


def device_memory(device: torch.device) -> int | None:
    """Return the bytes of memory that this process can have there; ``None`` where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = []
    try:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not Linux
        return None
    # A container has a limit of its own, in a file of version 2 or 1 of cgroups.
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(found)


def _advice(recipe: Recipe, limit: int, ranks: int, images: int) -> str:
    """Return the settings that make the run fit, the least change first."""
    ways = fitting(recipe, limit, ranks, images)
    if not ways:
        return "no batch of it fits here; choose a smaller network (`zoo-train recipes`)"
    first, *others = (", ".join(way) for way in ways)
    reason = " (the loss depends on the batch)" if first.startswith("optim.batch_size") else ""
    also = f"; so does {' or '.join(others)}" if others else ""
    return f"--set {first} fits{reason}{also}"


def _activations(architecture: Architecture, recompute: bool) -> tuple[float, int]:
    """Return how many values the encoder keeps per pixel of a view, and its number of parameters."""
    key = repr((architecture, recompute))
    if key not in _COUNTED:
        _COUNTED[key] = _count(architecture, recompute)
    return _COUNTED[key]


def _count(architecture: Architecture, recompute: bool) -> tuple[float, int]:
    side = architecture.model_args.get("img_size", _MEASURED_SIDE)  # a transformer's own size
    with torch.device("meta"):
        encoder = build_encoder(architecture).train()
        if recompute:
            recompute_activations(encoder, architecture.timm_name)
        own = {p.untyped_storage()._cdata for p in encoder.parameters()}
        saved: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if (storage := tensor.untyped_storage()._cdata) not in own:
                saved.setdefault(storage, tensor)  # a shared storage counts once
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            encoder(torch.empty(2, 3, side, side))
    values = sum(t.untyped_storage().nbytes() // t.element_size() for t in saved.values())
    return values / 2 / side**2, sum(p.numel() for p in encoder.parameters())
