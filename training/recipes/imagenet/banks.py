"""Methods with a memory bank on ImageNet-1k: InstDisc, CMC, PIRL and Local Aggregation.

``_pycontrast`` names the constants of HobbitLong/PyContrast, which reproduced the first three.
"""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Heads, Objective, Optim, Recipe, View, Views
from training.recipes.imagenet.views import LEM_VIEW, PYC_VIEW_A, SIMCLR_VIEW


def instdisc_in1k() -> Recipe:
    """InstDisc on ImageNet-1k, batch 256, 200 epochs, NCE with 4096 negatives (lemniscate.pytorch f7cfe29, main.py)."""
    return Recipe(
        "instdisc_r50_in1k_200ep",
        "instdisc",
        "r50",
        views=Views(operations="torchvision", first=LEM_VIEW, second=None),
        heads=Heads(out=128),
        objective=Objective(temperature=0.07),
        optim=Optim(
            name="sgd",
            lr=0.03,
            batch_size=256,
            epochs=200,
            warmup_epochs=0,
            schedule="decay",
            decay_start=120,  # and again at 160
            decay_epochs=40,
            weight_decay=1e-4,
        ),
        options={"negatives": 4096, "bank_momentum": 0.5, "loss": "nce", "bank_start": "uniform"},
        precision="bf16",
    )


def instdisc_pycontrast_in1k() -> Recipe:
    """PyContrast's InsDis (84f94ea, ``--method InsDis --cosine``): InfoNCE with 65 536 negatives, cosine by epoch."""
    base = instdisc_in1k()
    return replace(
        base,
        name="instdisc_r50_in1k_200ep_pycontrast",
        views=replace(base.views, first=PYC_VIEW_A),
        optim=replace(base.optim, schedule="epoch_end", final_lr=0.03e-3, decay_start=0, decay_epochs=30),
        options={"negatives": 65_536, "bank_momentum": 0.5, "loss": "softmax", "bank_start": "normal_unit"},
    )


def cmc_in1k() -> Recipe:
    """CMC on ImageNet-1k: two half-width R50, Lab, NCE with 16 384 negatives, batch 128 (7b227be, train_CMC.py)."""
    base = instdisc_in1k()
    view = View(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)  # a crop of 8 to 100 % and a flip
    return replace(
        base,
        name="cmc_r50_in1k_240ep",
        method="cmc",
        architecture="cmc_r50",
        views=replace(base.views, first=view),
        # .03 at 128; a tenth after 120, 160 and 200 epochs
        optim=replace(base.optim, lr=0.06, batch_size=128, epochs=240),
        options={**base.options, "negatives": 16_384},
    )


def cmc_pycontrast_in1k() -> Recipe:
    """PyContrast's CMC (84f94ea, ``--method CMC --cosine``): YDbDr with jitter, InfoNCE with 65 536 negatives."""
    base = instdisc_pycontrast_in1k()
    view = replace(PYC_VIEW_A, hue=0.1, grayscale_p=0.0)  # PyContrast's view C
    return replace(
        base,
        name="cmc_r50_in1k_200ep_pycontrast",
        method="cmc",
        architecture="cmc_r50_ydbdr",
        views=replace(base.views, first=view),
    )


def pirl_in1k(epochs: int) -> Recipe:
    """PIRL with an MLP head and blur on ImageNet-1k, batch 1024 (VISSL 09270ed, pirl/, transforms/photo_gblur.yaml).

    Flip and colours are drawn for each of the nine patches by itself, as in VISSL, on the cell that the patch is cut
    from.
    """
    colours = replace(SIMCLR_VIEW, blur_p=0.5)
    return Recipe(
        f"pirl_r50_in1k_{epochs}ep",
        "pirl",
        "r50",
        views=Views(
            operations="torchvision",
            first=colours,
            second=None,
            small=replace(colours, min_area=0.6, cells=3),
            small_size=255,
            small_count=1,
        ),
        heads=Heads(out=128, mlp_layers=2),
        objective=Objective(temperature=0.1),
        optim=Optim(
            name="sgd",
            lr=0.03,  # .12 at 1024
            batch_size=1024,
            epochs=epochs,
            warmup_epochs=0,
            schedule="epoch",
            final_lr=0.03e-3,
            weight_decay=1e-4,
        ),
        options={
            "code": "vissl",
            "patch_weight": 0.5,
            "negatives": 32_000,
            "bank_momentum": 0.5,
            "loss": "softmax",
            "bank_start": "uniform_unit",
        },
        precision="bf16",
    )


def pirl_pycontrast_in1k() -> Recipe:
    """PyContrast's PIRL (84f94ea, ``--method PIRL --cosine``): plain patches, InfoNCE with 65 536 negatives."""
    base = instdisc_pycontrast_in1k()
    plain = View(min_area=0.6, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return replace(
        base,
        name="pirl_r50_in1k_200ep_pycontrast",
        method="pirl",
        views=replace(base.views, small=plain, small_size=255, small_count=1),
        heads=Heads(out=128, mlp_layers=1),
        options={**base.options, "code": "pycontrast", "patch_weight": 0.5},
    )


def localagg_in1k() -> Recipe:
    """Local Aggregation on ImageNet-1k, batch 128, 10 + 190 epochs (LAT 87ac593, la_final.json, param_setter.py).

    A tenth at steps 1 522 000 and 1 895 857 of 2 001 800, which are epochs 152 and 189. The official network is a
    pre-activation ResNet of TensorFlow; here it is R50 as for the other methods.
    """
    base = instdisc_in1k()
    return replace(
        base,
        name="localagg_r50_in1k_200ep",
        method="localagg",
        optim=replace(base.optim, lr=0.06, batch_size=128, decay_start=152, decay_epochs=37),  # .03 at 128
        options={**base.options, "clusterings": 10, "clusters": 30_000, "instance_epochs": 10.0},
    )
