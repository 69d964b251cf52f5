"""A narrow ResNet-10 with the 3x3 stem for one CPU core, on CIFAR-10 at 24 pixels: every method at one size."""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Heads, Objective, Recipe, View
from training.recipes.imagenet import LEM_VIEW, barlowtwins_in1k, vicreg_in1k
from training.recipes.small.gpu import small_budget
from training.recipes.small.tiny_imagenet import simclr_r18_tin32, simsiam_r18_tin32
from zoo.errors import UserError

_OBJECTIVE = Objective()


def cpu_budget(method: str, epochs: int) -> Recipe:
    """A narrow ResNet-10 with the 3x3 stem, 24-pixel views of CIFAR-10, batch 64: 5 minutes an epoch on one core.

    BYOL uses three times the small budget's rate without a warm-up. SimSiam and SimCLR are set as on Tiny-ImageNet,
    SimSiam without ``zero_init_residual``. MoCo v2 uses SimCLR's rate and a queue of 64 batches. SwAV uses lightly's
    Adam, prototypes for a batch of 64, and a queue from the second epoch (the official script has one for small
    batches). The supervised baseline is that for a GPU. Rate and ``zero_init_residual`` were searched:
    ``benchmarks/results/recipe_search.json``.

    Raises:
        UserError: there is no such recipe for ``method``.
    """
    # Start from the nearest recipe of the method.
    match method:
        case "byol":
            base = small_budget(method, "cifar10", 200)
            base = replace(base, optim=replace(base.optim, lr=0.09, warmup_epochs=0))
        case "simsiam":
            base = replace(simsiam_r18_tin32(), zero_init_residual=False)
        case "simclr":
            base = simclr_r18_tin32()
        case "mocov2":
            base = small_budget(method, "cifar10", 200)
            objective = replace(base.objective, queue=4096, bn_parts=2)
            optim = replace(base.optim, lr=0.2, weight_decay=1e-4)
            base = replace(base, objective=objective, optim=optim)
        case "swav":
            base = small_budget(method, "cifar10", 200)
            objective = replace(base.objective, queue=1024, queue_from_epoch=1)
            heads = replace(base.heads, prototypes=128)
            base = replace(base, objective=objective, heads=heads)
        case "mocov1":
            return _mocov1_budget(epochs)
        case "supervised":
            base = small_budget(method, "cifar10", 200)
        case "instdisc":
            return _instdisc_budget(epochs)
        case "barlowtwins" | "vicreg":
            return _redundancy_budget(method, epochs)
        case "cpc":
            return _cpc_budget(epochs)
        case "mocov3":
            return _mocov3_budget(epochs)
        case "densecl":
            base = cpu_budget("mocov2", epochs)
            objective = replace(base.objective, symmetric=False)
            base = replace(base, name=f"densecl_r10_cifar10_{epochs}ep", method=method)
            return replace(base, objective=objective, options={"dense_weight": 0.5})
        case "byol_gn":
            base, name = cpu_budget("byol", epochs), f"byol_gn_r10_cifar10_{epochs}ep"
            optim = replace(base.optim, lr=0.03)
            base = replace(base, architecture="r10_gn", zero_init_residual=True)
            return replace(base, name=name, method=method, optim=optim, options={"groups": 32})
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
    return _shrunk(base, method, epochs)


def _shrunk(base: Recipe, method: str, epochs: int) -> Recipe:
    """Return ``base`` with the network, the images and the batch of a CPU."""
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


def _mocov1_budget(epochs: int) -> Recipe:
    """MoCo v2's small recipe with what v1 has: one Linear as the head, its view, and the loss of one direction."""
    base = cpu_budget("mocov2", epochs)
    return replace(
        base,
        name=f"mocov1_r10_cifar10_{epochs}ep",
        views=replace(base.views, first=LEM_VIEW, second=LEM_VIEW),
        heads=replace(base.heads, mlp_layers=1),
        objective=replace(base.objective, symmetric=False),
    )


def _bank_budget(method: str, epochs: int) -> Recipe:
    """The softmax over all images and T .1, LEM's setting for CIFAR-10 (``cifar.py``), with SimCLR's small view."""
    base = small_budget("mocov2", "cifar10", 200)
    base = replace(
        base,
        method=method,
        views=replace(base.views, second=None),
        objective=Objective(temperature=0.1),
        optim=replace(base.optim, lr=0.3, weight_decay=1e-4),
        options={"negatives": 0, "bank_momentum": 0.5, "loss": "softmax"},
    )
    return _shrunk(base, method, epochs)


def _instdisc_budget(epochs: int) -> Recipe:
    """InstDisc with a warm-up of one epoch, in which the bank is random: an image meets its own vector from then on.

    Without it, and with a rate of .3, the features get worse than those of random weights and stay so.
    """
    base = _bank_budget("instdisc", epochs)
    return replace(base, optim=replace(base.optim, lr=0.1, schedule="step", warmup_epochs=1))


def _cmc_budget(epochs: int) -> Recipe:
    """CMC with two half-width ResNet-10, InfoNCE with 1024 negatives at T .1, and CMC's crop and flip."""
    base = _bank_budget("cmc", epochs)
    return replace(
        base,
        architecture="cmc_r10",
        views=replace(base.views, first=View(min_area=0.2, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)),
        options={"negatives": 1024, "bank_momentum": 0.5, "loss": "softmax"},
    )


def _pirl_budget(epochs: int) -> Recipe:
    """PIRL as PyContrast has it, with 1024 negatives at T .1, and InstDisc's small rate and warm-up.

    The patches have 12 pixels and come from crops of 48.
    """
    base = _instdisc_budget(epochs)
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
    """Local Aggregation with two epochs of instance discrimination, 1024 neighbours, 3 clusterings into 1000."""
    base = _instdisc_budget(epochs)
    return replace(
        base,
        name=f"localagg_r10_cifar10_{epochs}ep",
        method="localagg",
        options={
            "negatives": 1024,
            "bank_momentum": 0.5,
            "loss": "softmax",  # NCE's first phase collapses at this size
            "clusterings": 3,
            "clusters": 1000,
            "instance_epochs": 2.0,  # an image meets its own vector in the bank in the second epoch
        },
    )


def _cpc_budget(epochs: int) -> Recipe:
    """CPC v2 on a grid of 4 x 4 patches of 12 pixels, two and three rows ahead, with Adam's rate of .001."""
    base = _bank_budget("cpc", epochs)
    options = {"patch": 12, "stride": 4, "first_step": 2, "last_step": 3, "layers": 2, "drop_colours": 0.2, "clip": 1.0}
    view = View(min_area=0.3, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return replace(
        base,
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
        zero_init_residual=False,
        heads=Heads(hidden=512, out=128),
        objective=Objective(temperature=0.2),
        optim=replace(base.optim, tau=0.99),
    )


def _redundancy_budget(method: str, epochs: int) -> Recipe:
    """Barlow Twins and VICReg with SimCLR's small view, AdamW and heads of 512."""
    base = replace(cpu_budget("simclr", epochs), zero_init_residual=False)
    published = barlowtwins_in1k(1000) if method == "barlowtwins" else vicreg_in1k(1000)
    return replace(
        base,
        name=f"{method}_r10_cifar10_{epochs}ep",
        method=method,
        heads=Heads(hidden=512, out=512),
        objective=_OBJECTIVE,
        optim=replace(base.optim, name="adamw", lr=0.002, weight_decay=1e-6),
        options={name: value for name, value in published.options.items() if name != "gpus"},
    )
