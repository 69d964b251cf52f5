"""A recipe made into a network and an optimiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from training.data.sampler import Epochs
from training.engine import optim, schedules
from training.methods import BYOL, Method, MoCoV2, SimCLR, SimSiam, Supervised, SwAV
from training.recipes.config import Optim, Recipe
from zoo.errors import UserError
from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder


def build_method(recipe: Recipe) -> Method:
    """The method's network, initialised from ``recipe.seed``; the target of BYOL from the draws that follow."""
    if recipe.architecture not in ARCHITECTURES:
        raise UserError(f"unknown architecture {recipe.architecture!r}: one of {', '.join(ARCHITECTURES)}")
    architecture = replace(ARCHITECTURES[recipe.architecture], stem=recipe.stem)
    torch.manual_seed(recipe.seed)
    encoder, dim = build_encoder(architecture, zero_init_residual=recipe.zero_init_residual), architecture.num_features
    heads, objective = recipe.heads, recipe.objective
    match recipe.method:
        case "byol":
            return BYOL(
                encoder,
                dim,
                target_encoder=build_encoder(architecture, zero_init_residual=recipe.zero_init_residual),
                hidden=heads.hidden,
                out=heads.out,
                predictor=objective.predictor,
                target=objective.target,
                beta=objective.beta,
                temperature=objective.temperature,
            )
        case "simsiam":
            return SimSiam(
                encoder,
                dim,
                out=heads.out,
                hidden=heads.hidden,
                projector_layers=heads.projector_layers,
                projector_hidden=heads.projector_hidden or dim,
                stop_gradient=objective.stop_gradient,
            )
        case "simclr":
            return SimCLR(
                encoder,
                dim,
                out=heads.out,
                projector_layers=heads.projector_layers,
                temperature=objective.temperature,
            )
        case "mocov2":
            return MoCoV2(
                encoder,
                dim,
                out=heads.out,
                queue=objective.queue,
                momentum=objective.key_momentum,
                temperature=objective.temperature,
                symmetric=objective.symmetric,
                bn_parts=objective.bn_parts,
                seed=recipe.seed,
            )
        case "swav":
            return SwAV(
                encoder,
                dim,
                hidden=heads.hidden,
                out=heads.out,
                prototypes=heads.prototypes,
                temperature=objective.temperature,
                epsilon=objective.epsilon,
                iterations=objective.sinkhorn_iterations,
                queue=objective.queue,
                queue_from_epoch=objective.queue_from_epoch,
                frozen_steps=objective.frozen_steps,
            )
        case "supervised":
            return Supervised(encoder, dim, num_classes=heads.classes)
    raise UserError(f"unknown method {recipe.method!r}")


def load_weights(method: Method, state: dict[str, Any], name: object) -> None:
    """The network of a checkpoint's ``state`` into ``method``.

    Raises:
        UserError: they do not fit; ``name`` is the checkpoint's, for the message.
    """
    try:
        method.load_state_dict(state["method"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()[:160]
        raise UserError(
            f"{name} does not fit the network of its recipe ({reason}): use the version of siamese-zoo that wrote it"
        ) from None


def build_optimiser(method: Method, config: Optim) -> torch.optim.Optimizer:
    """The recipe's optimiser with the method's parameter groups."""
    momentum, weight_decay = config.momentum, config.weight_decay
    match config.name:
        case "lars" | "lars_classic":
            classic = config.name == "lars_classic"
            return optim.lars(method, momentum=momentum, weight_decay=weight_decay, classic_momentum=classic)
        case "larc":
            return optim.larc(method, momentum=momentum, weight_decay=weight_decay)
        case "sgd":
            return optim.sgd(method, momentum=momentum, weight_decay=weight_decay)
        case "adamw":
            return optim.adamw(method, weight_decay=weight_decay)
    raise UserError(f"unknown optimiser {config.name!r}")


def learning_rate(config: Optim, step: int, epochs: Epochs) -> float:
    """Of ``step``, counted from 0."""
    base, batch_size, epoch = config.lr, config.batch_size, epochs.before(step)
    total, warmup = epochs.steps(config.epochs), epochs.steps(config.warmup_epochs)
    match config.schedule:
        case "epoch":
            return schedules.cosine_by_epoch(epoch, base=base, batch_size=batch_size, epochs=config.epochs)
        case "decay":
            return schedules.step_decay(epoch, base=base, batch_size=batch_size, every=config.decay_epochs)
        case "swav":
            start, final = config.start_lr, config.final_lr
            return schedules.swav_cosine(
                step, start=start, base=base, final=final, batch_size=batch_size, total=total, warmup=warmup
            )
        case "step":
            return schedules.warmup_cosine(step, base=base, batch_size=batch_size, total=total, warmup=warmup)
    raise UserError(f"unknown schedule {config.schedule!r}")


def tau_of(config: Optim, step: int, total_steps: int) -> float:
    """Of ``step``, counted from 0."""
    return config.tau if config.constant_tau else schedules.target_momentum(step, base=config.tau, total=total_steps)


def set_learning_rate(optimiser: torch.optim.Optimizer, config: Optim, lr: float) -> None:
    """For all groups but a predictor whose rate is fixed ([S] section 4.2: it adapts to the latest representation)."""
    fixed = config.lr * config.batch_size / 256
    for group in optimiser.param_groups:
        group["lr"] = fixed if config.fixed_predictor_lr and group.get("predictor") else lr
