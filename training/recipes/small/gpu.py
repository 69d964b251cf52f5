"""R18 with the 3x3 stem for one GPU, on CIFAR-10 at 32 pixels or Tiny-ImageNet at 64."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from training.recipes.config import Heads, Objective, Optim, Recipe, View, Views
from training.recipes.imagenet import MOCO_VIEW, SIMCLR_VIEW
from zoo.errors import UserError

SmallData: TypeAlias = Literal["cifar10", "tin"]
_OBJECTIVE = Objective()

# One GPU: R18, 3x3 stem, no blur. A name says whose hyper-parameters a recipe has: ``_lightly`` those of lightly's
# CIFAR-10 benchmark, ``_paper`` those of [S] app. D, ``_demo`` those of MoCo's demonstration. A name without one of
# these words has ours. Weight decay 5e-4 is lightly's and [S]'s; SimCLR's own CIFAR-10 command has 1e-6 with a rate of
# 1.0. Our BYOL loss is four times lightly's (a SUM of squared distances against half the sum of negative cosines), so a
# quarter of its rate with four times its weight decay gives the same update.
_WHOSE: dict[str, str] = {
    "byol": "_lightly",
    "simsiam": "_paper",
    "simclr": "_lightly",
    "mocov2": "_lightly",
    "swav": "_lightly",
}


def _resnet18(
    method: str,
    data: SmallData,
    view: View,
    *,
    heads: Heads,
    optim: Optim,
    objective: Objective = _OBJECTIVE,
    zero_init_residual: bool = False,
) -> Recipe:
    """R18 with the 3x3 stem at 32 pixels (CIFAR-10) or 64 (Tiny-ImageNet); both views alike."""
    return Recipe(
        f"{method}_r18_{data}_{optim.epochs}ep{_WHOSE.get(method, '')}",
        method,
        "r18",
        stem="cifar",
        zero_init_residual=zero_init_residual,
        views=Views(size={"cifar10": 32, "tin": 64}[data], operations="torchvision", first=view, second=view),
        heads=heads,
        objective=objective,
        optim=optim,
        precision="bf16",
        monitor_epochs=10,
        checkpoint_steps=1000,
    )


def small_budget(method: str, data: SmallData, epochs: int) -> Recipe:
    """R18 with the 3x3 stem at 32 pixels (CIFAR-10) or 64 (Tiny-ImageNet), batch 512, without blur."""
    # Weaken the views for small images.
    simclr_view = replace(SIMCLR_VIEW, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur_p=0)  # strength .5
    moco_view = replace(MOCO_VIEW, blur_p=0)
    # lr .03 and weight decay 5e-4 are from [S] app. D; .12 is lightly's .06 for a batch of 128
    optim = Optim(
        name="sgd", lr=0.12, batch_size=512, epochs=epochs, warmup_epochs=0, schedule="epoch", weight_decay=5e-4
    )
    # Adapt heads, optimiser and loss to the method.
    match method:
        case "byol":
            heads = Heads(hidden=1024, out=256)
            optim = replace(optim, lr=0.03, weight_decay=2e-3, warmup_epochs=10, schedule="step", tau=0.99)
            return _resnet18(method, data, simclr_view, heads=heads, optim=optim)
        case "simsiam":
            heads = Heads(hidden=512, out=2048, projector_layers=2, projector_hidden=2048)
            optim = replace(optim, lr=0.03, fixed_predictor_lr=True)
            return _resnet18(method, data, moco_view, heads=heads, optim=optim, zero_init_residual=True)
        case "simclr":
            heads, objective = Heads(out=128, projector_layers=2), Objective(temperature=0.5)  # SimCLR app. B.9
            optim = replace(optim, warmup_epochs=10, schedule="step")
            return _resnet18(method, data, simclr_view, heads=heads, objective=objective, optim=optim)
        case "mocov2":
            # lightly's, with twice its queue for a larger batch; ``mocov2_demo`` is the authors' demonstration
            objective = Objective(temperature=0.1, queue=8192, key_momentum=0.99, symmetric=True, bn_parts=8)
            return _resnet18(method, data, moco_view, heads=Heads(out=128), objective=objective, optim=optim)
        case "swav":
            heads = Heads(hidden=512, out=128, prototypes=512)
            # lightly's Adam, at .001 for a batch of 128. Prototypes that move at once can collapse.
            optim = replace(optim, name="adamw", lr=0.002, weight_decay=1e-6)
            objective = Objective(temperature=0.1, frozen_steps=100)
            view = replace(simclr_view, min_area=0.14)
            return _resnet18(method, data, view, heads=heads, objective=objective, optim=optim)
        case "supervised":
            view = View(min_area=0.2, jitter_p=0, grayscale_p=0, blur_p=0)
            heads = Heads(classes={"cifar10": 10, "tin": 200}[data])
            recipe = _resnet18(method, data, view, heads=heads, optim=replace(optim, lr=0.05))
            return replace(recipe, views=replace(recipe.views, second=None))
        case _:
            raise UserError(f"no small recipe of {method}")


def mocov2_demo(epochs: int) -> Recipe:
    """MoCo's CIFAR-10 demonstration (facebookresearch/moco, branch colab-notebook, ``moco_cifar10_demo.ipynb``).

    Asymmetric, batch 512 with its rate of .06 (.03 for 256), a queue of 4096, a head of one Linear, crops of 8 % or
    more, eight parts for BN. Views are normalised with ImageNet's mean and deviation; the notebook has CIFAR-10's.
    """
    view = replace(MOCO_VIEW, min_area=0.08, blur_p=0)
    optim = Optim(
        name="sgd", lr=0.03, batch_size=512, epochs=epochs, warmup_epochs=0, schedule="epoch", weight_decay=5e-4
    )
    objective = Objective(temperature=0.1, queue=4096, key_momentum=0.99, bn_parts=8)
    recipe = _resnet18("mocov2", "cifar10", view, heads=Heads(out=128, mlp_layers=1), objective=objective, optim=optim)
    return replace(recipe, name=f"mocov2_r18_cifar10_{epochs}ep_demo")
