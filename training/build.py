"""A recipe made into a network and an optimiser."""

from __future__ import annotations

import torch

from training import optim
from training.config import Optim, Recipe
from training.methods import BYOL, Method, SimSiam
from training.schedules import cosine_by_epoch, warmup_cosine
from zoo.encoder import build_encoder
from zoo.errors import UserError
from zoo.registry import ARCHITECTURES


def build_method(recipe: Recipe) -> Method:
    """The method's network, initialised from ``recipe.seed``; the target of BYOL from the draws that follow."""
    if recipe.architecture not in ARCHITECTURES:
        raise UserError(f"unknown architecture {recipe.architecture!r}: one of {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[recipe.architecture]
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(architecture, zero_init_residual=recipe.zero_init_residual)
    heads = recipe.heads
    match recipe.method:
        case "byol":
            target = build_encoder(architecture, zero_init_residual=recipe.zero_init_residual)
            return BYOL(encoder, architecture.num_features, target_encoder=target, hidden=heads.hidden, out=heads.out)
        case "simsiam":
            return SimSiam(
                encoder,
                architecture.num_features,
                out=heads.out,
                hidden=heads.hidden,
                projector_layers=heads.projector_layers,
            )
    raise UserError(f"unknown method {recipe.method!r}: byol or simsiam")


def build_optimiser(method: Method, config: Optim) -> torch.optim.Optimizer:
    """LARS or SGD with the method's parameter groups; AdamW, which no paper uses, for short runs on small machines."""
    match config.name:
        case "lars":
            return optim.lars(method, momentum=config.momentum, weight_decay=config.weight_decay)
        case "sgd":
            return optim.sgd(method, momentum=config.momentum, weight_decay=config.weight_decay)
        case "adamw":
            parameters = [p for p in method.parameters() if p.requires_grad]
            return torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay)
    raise UserError(f"unknown optimiser {config.name!r}: lars, sgd or adamw")


def learning_rate(config: Optim, step: int, steps_per_epoch: int) -> float:
    """Of ``step``, counted from 0."""
    if config.schedule == "epoch":
        epoch = step // steps_per_epoch
        return cosine_by_epoch(epoch, base=config.lr, batch_size=config.batch_size, epochs=config.epochs)
    return warmup_cosine(
        step,
        base=config.lr,
        batch_size=config.batch_size,
        total=config.epochs * steps_per_epoch,
        warmup=int(config.warmup_epochs * steps_per_epoch),
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, config: Optim, lr: float) -> None:
    """For all groups but a predictor whose rate is fixed ([S] section 4.2: it adapts to the latest representation)."""
    fixed = config.lr * config.batch_size / 256
    for group in optimiser.param_groups:
        group["lr"] = fixed if config.fixed_predictor_lr and group.get("predictor") else lr
