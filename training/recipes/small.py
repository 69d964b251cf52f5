"""Runs for one GPU or a few CPU cores, on CIFAR-10 and Tiny-ImageNet: one function for each, as in ``imagenet``."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from training.recipes.config import Heads, Objective, Optim, Recipe, View, Views
from training.recipes.imagenet import MOCO_VIEW, SIMCLR_VIEW, barlowtwins_in1k, byol_in1k, simsiam_in1k, vicreg_in1k
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
            # lightly's Adam at .001 per 128; without freezing the prototypes for an epoch it can start collapsed
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


def cpu_budget(method: str, epochs: int) -> Recipe:
    """A narrow ResNet-10 with the 3x3 stem, 24-pixel views of CIFAR-10, batch 64: 5 minutes an epoch on one core.

    BYOL uses the small budget's rates without a warm-up. SimSiam and SimCLR are set as on Tiny-ImageNet below. MoCo v2
    uses SimCLR's rate and a queue of 64 batches. SwAV uses lightly's Adam, prototypes for a batch of 64, and a queue
    from the second epoch (the official script has one for small batches). All but BYOL set ``zero_init_residual``.

    Raises:
        UserError: there is no such recipe for ``method``.
    """
    # Start from the nearest recipe of the method.
    match method:
        case "byol":
            base = small_budget(method, "cifar10", 200)
            base = replace(base, optim=replace(base.optim, warmup_epochs=0))
        case "simsiam":
            base = replace(simsiam_r18_tin32(), zero_init_residual=True)
        case "simclr":
            base = simclr_r18_tin32()
        case "mocov2":
            base = small_budget(method, "cifar10", 200)
            objective = replace(base.objective, queue=4096, bn_parts=2)
            optim = replace(base.optim, lr=0.2, weight_decay=1e-4)
            base = replace(base, zero_init_residual=True, objective=objective, optim=optim)
        case "swav":
            base = small_budget(method, "cifar10", 200)
            objective = replace(base.objective, queue=1024, queue_from_epoch=1)
            heads = replace(base.heads, prototypes=128)
            base = replace(base, zero_init_residual=True, objective=objective, heads=heads)
        case "instdisc":
            base = _bank_budget(method)
        case "barlowtwins" | "vicreg":
            return _redundancy_budget(method, epochs)
        case "cpc":
            return _cpc_budget(epochs)
        case "mocov3":
            return _mocov3_budget(epochs)
        case "densecl":
            base = cpu_budget("mocov2", epochs)
            objective = replace(base.objective, symmetric=False)
            name = f"densecl_r10_cifar10_{epochs}ep"
            return replace(base, name=name, method=method, objective=objective, options={"dense_weight": 0.5})
        case "byol_gn":
            base, name = cpu_budget("byol", epochs), f"byol_gn_r10_cifar10_{epochs}ep"
            return replace(base, name=name, method=method, architecture="r10_gn", options={"groups": 32})
        case "localagg":
            return _localagg_budget(epochs)
        case "cmc":
            return _cmc_budget(epochs)
        case "pirl":
            return _pirl_budget(epochs)
        case "infomin":
            return _infomin_budget(epochs)
        case _:
            raise UserError(f"no recipe of this size for {method!r}")
    # Shrink the network, the images and the batch for a CPU.
    return replace(
        base,
        name=f"{method}_r10_cifar10_{epochs}ep",
        architecture="r10",
        stem="cifar",
        views=replace(base.views, size=24),
        optim=replace(base.optim, batch_size=64, epochs=epochs),
        precision="fp32",
        monitor_epochs=1,
    )


def _bank_budget(method: str) -> Recipe:
    """The softmax over all images and T .1, LEM's setting for CIFAR-10 (``cifar.py``), with SimCLR's small view.

    Rate and weight decay were not searched. Two short runs on 2000 images do not tell them from an untrained network:
    kNN 28.8 with these values, 24.0 with LEM's .06 and 5e-4, 28.0 untrained.
    """
    base = small_budget("mocov2", "cifar10", 200)
    return replace(
        base,
        method=method,
        views=replace(base.views, second=None),
        objective=Objective(temperature=0.1),
        optim=replace(base.optim, lr=0.3, weight_decay=1e-4),
        options={"negatives": 0, "bank_momentum": 0.5, "loss": "softmax"},
    )


def _cmc_budget(epochs: int) -> Recipe:
    """CMC with two half-width ResNet-10, InfoNCE with 1024 negatives at T .1, and CMC's crop and flip."""
    base = cpu_budget("instdisc", epochs)
    return replace(
        base,
        name=f"cmc_r10_cifar10_{epochs}ep",
        method="cmc",
        architecture="cmc_r10",
        views=replace(base.views, first=View(min_area=0.2, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)),
        options={"negatives": 1024, "bank_momentum": 0.5, "loss": "softmax"},
    )


def _pirl_budget(epochs: int) -> Recipe:
    """PIRL as PyContrast has it, with 1024 negatives at T .1; patches of 12 pixels from crops of 48."""
    base = cpu_budget("instdisc", epochs)
    plain = View(min_area=0.6, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return replace(
        base,
        name=f"pirl_r10_cifar10_{epochs}ep",
        method="pirl",
        views=replace(base.views, small=plain, small_size=48, small_count=1),
        heads=replace(base.heads, mlp_layers=1),
        options={
            "code": "pycontrast",
            "patch_weight": 0.5,
            "negatives": 1024,
            "bank_momentum": 0.5,
            "loss": "softmax",
        },
    )


def _infomin_budget(epochs: int) -> Recipe:
    """MoCo v2's small recipe with a jigsaw branch; patches of 12 pixels from crops of 48."""
    base = cpu_budget("mocov2", epochs)
    plain = View(min_area=0.6, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return replace(
        base,
        name=f"infomin_r10_cifar10_{epochs}ep",
        method="infomin",
        views=replace(base.views, small=plain, small_size=48, small_count=1),
        objective=replace(base.objective, symmetric=False),
        options={"patch_weight": 0.5},
    )


def _localagg_budget(epochs: int) -> Recipe:
    """Local Aggregation with one epoch of instance discrimination, 1024 neighbours and 3 clusterings into 1000."""
    base = cpu_budget("instdisc", epochs)
    return replace(
        base,
        name=f"localagg_r10_cifar10_{epochs}ep",
        method="localagg",
        options={
            "negatives": 1024,
            "bank_momentum": 0.5,
            "loss": "nce",
            "clusterings": 3,
            "clusters": 1000,
            "instance_epochs": 1,
        },
    )


def _cpc_budget(epochs: int) -> Recipe:
    """CPC v2 on a grid of 4 x 4 patches of 12 pixels, two and three rows ahead, with Adam's rate of .001."""
    base = cpu_budget("instdisc", epochs)
    options = {"patch": 12, "stride": 4, "first_step": 2, "last_step": 3, "layers": 2, "drop_colours": 0.2, "clip": 1.0}
    view = View(min_area=0.3, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return replace(
        base,
        name=f"cpc_r10_cifar10_{epochs}ep",
        method="cpc",
        architecture="r10_ln",
        views=replace(base.views, first=view),
        heads=Heads(hidden=128, out=64),
        objective=_OBJECTIVE,
        optim=replace(base.optim, name="adamw", lr=0.004, weight_decay=1e-6),  # .001 at 64
        options=options,
    )


def _mocov3_budget(epochs: int) -> Recipe:
    """MoCo v3 with SimCLR's small view and rate, heads of 512 and a temperature of .2."""
    base = cpu_budget("simclr", epochs)
    return replace(
        base,
        name=f"mocov3_r10_cifar10_{epochs}ep",
        method="mocov3",
        heads=Heads(hidden=512, out=128),
        objective=Objective(temperature=0.2),
        optim=replace(base.optim, tau=0.99),
    )


def _redundancy_budget(method: str, epochs: int) -> Recipe:
    """Barlow Twins and VICReg with SimCLR's small view, AdamW and heads of 512; their rates were not searched."""
    base = cpu_budget("simclr", epochs)
    published = barlowtwins_in1k(1000) if method == "barlowtwins" else vicreg_in1k(1000)
    return replace(
        base,
        name=f"{method}_r10_cifar10_{epochs}ep",
        method=method,
        heads=Heads(hidden=512, out=512),
        objective=_OBJECTIVE,
        optim=replace(base.optim, name="adamw", lr=0.002, weight_decay=1e-6),
        options=published.options,
    )


def byol_r18_tin32() -> Recipe:
    """BYOL on half of Tiny-ImageNet for two CPU cores and about an hour: R18, 32-pixel views, batch 64, SGD.

    Its scores are in model_cards/byol_r18_mini.md. A short run with small batches needs a slowly moving target (with a
    fast one the features fall to a few dimensions), residual blocks that start as identities (zero_init_residual), and
    views that are not too hard for 32 pixels.
    """
    view = View(min_area=0.3, brightness=0.2, contrast=0.3, blur_p=0.0)
    return replace(
        byol_in1k("r18", 40),
        name="byol_r18_tin32",
        zero_init_residual=True,
        padding="symmetric",
        project_first=False,
        initialiser="timm",
        views=Views(size=32, first=view, second=view),
        heads=Heads(hidden=1024, out=256),
        optim=Optim(name="sgd", lr=0.2, batch_size=64, epochs=13, warmup_epochs=0.25, weight_decay=1e-4, tau=0.996),
        precision="fp32",
        monitor_epochs=3,
    )


def simclr_r18_tin32() -> Recipe:
    """SimCLR in the same setting, with harder views and a temperature of .2: the network that ships by default.

    In runs this short, negatives teach more than a slowly moving target: after 400 steps of 64 images the kNN accuracy
    was above a random network's, while BYOL's was still below. Its scores are in model_cards/simclr_r18_mini.md.
    """
    view = View(min_area=0.2, brightness=0.3, blur_p=0.0)
    return replace(
        byol_r18_tin32(),
        name="simclr_r18_tin32",
        method="simclr",
        views=Views(size=32, first=view, second=view),
        heads=Heads(out=128, projector_layers=2),
        objective=Objective(temperature=0.2),
        optim=Optim(name="sgd", lr=0.2, batch_size=64, epochs=18, warmup_epochs=0.1, weight_decay=1e-4),
    )


def simsiam_r18_tin32() -> Recipe:
    """SimSiam in the same setting, with the 2-layer projector and without blur ([S] app. D)."""
    view = View(min_area=0.2, saturation=0.4, blur_p=0.0)
    return replace(
        simsiam_in1k("r18", 100),
        name="simsiam_r18_tin32",
        views=Views(size=32, operations="torchvision", first=view, second=view),
        heads=Heads(hidden=512, out=2048, projector_layers=2),
        optim=Optim(
            name="sgd",
            lr=0.12,
            batch_size=64,
            epochs=13,
            warmup_epochs=0,
            weight_decay=5e-4,
            fixed_predictor_lr=True,
        ),
        precision="fp32",
        monitor_epochs=3,
    )
