"""MoCo v1 to v3 on ImageNet-1k, and what was built on MoCo v2: InfoMin Aug. and DenseCL.

[S] is SimSiam (arXiv 2011.10566), which reproduced MoCo v2.
"""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Heads, Objective, Optim, Recipe, View, Views
from training.recipes.imagenet.views import LEM_VIEW, MOCO_VIEW, SIMCLR_VIEW


def mocov1_in1k(architecture: str) -> Recipe:
    """MoCo v1 on ImageNet-1k (arXiv 1911.05722, official main_moco.py without --mlp, --aug-plus and --cos).

    A head of one Linear, T .07, v1's view, a tenth at epochs 120 and 160. The paper gives the wider networks of its
    table 1 no settings of their own.
    """
    base = mocov2_in1k(architecture, 200)
    return replace(
        base,
        name=f"mocov1_{architecture}_in1k_200ep",
        views=replace(base.views, first=LEM_VIEW, second=LEM_VIEW),
        heads=Heads(out=128, mlp_layers=1),
        objective=replace(base.objective, temperature=0.07),
        optim=replace(base.optim, schedule="decay", decay_start=120, decay_epochs=40),
    )


def mocov2_in1k(architecture: str, epochs: int) -> Recipe:
    """MoCo v2 on ImageNet-1k, batch 256 on 8 GPUs, BN per GPU (arXiv 2003.04297, official main_moco.py)."""
    return Recipe(
        f"mocov2_{architecture}_in1k_{epochs}ep",
        "mocov2",
        architecture,
        views=Views(operations="torchvision", first=MOCO_VIEW, second=MOCO_VIEW),
        heads=Heads(out=128),
        objective=Objective(temperature=0.2, queue=65_536, key_momentum=0.999),
        optim=Optim(
            name="sgd", lr=0.03, batch_size=256, epochs=epochs, warmup_epochs=0, schedule="epoch", weight_decay=1e-4
        ),
        precision="bf16",
    )


def mocov2_symmetric_in1k(epochs: int) -> Recipe:
    """MoCo v2 with the loss of both directions, [S] table 4's "repro.+" ([S] app. C).

    The paper does not say if the directions were summed or averaged; they are averaged here.
    """
    base = mocov2_in1k("r50", epochs)
    return replace(base, name=f"{base.name}_symmetric", objective=replace(base.objective, symmetric=True))


def mocov3_in1k(epochs: int) -> Recipe:
    """MoCo v3 with R50 on ImageNet-1k, batch 4096 (facebookresearch/moco-v3 c349e6e, CONFIG.md and main_moco.py)."""
    lr, weight_decay, momentum = {  # CONFIG.md:10-47
        100: (0.6, 1e-6, 0.99),
        300: (0.3, 1e-6, 0.99),
        1000: (0.3, 1.5e-6, 0.996),
    }[epochs]
    return Recipe(
        f"mocov3_r50_in1k_{epochs}ep",
        "mocov3",
        "r50",
        zero_init_residual=True,
        views=Views(
            operations="torchvision",
            first=View(min_area=0.2),
            second=View(min_area=0.2, blur_p=0.1, solarize_p=0.2),
        ),
        heads=Heads(hidden=4096, out=256),
        objective=Objective(temperature=1.0),
        optim=Optim("lars", lr, 4096, epochs, warmup_epochs=10, weight_decay=weight_decay, tau=momentum),
        precision="bf16",
    )


def infomin_in1k(epochs: int, rand_augment: int = 2) -> Recipe:
    """InfoMin Aug. on ImageNet-1k, batch 256 (PyContrast 84f94ea, ``--method InfoMin --cosine``).

    The views have RandAugment (rand-n2-m10-mstd0.5), made by Pillow on the host: it needs many cores beside a GPU.
    Recipes whose names end in ``_norandaug`` leave it out.
    """
    base = mocov2_in1k("r50", epochs)
    view = replace(SIMCLR_VIEW, min_area=0.2, rand_augment=rand_augment)
    plain = View(min_area=0.6, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return replace(
        base,
        name=f"infomin_r50_in1k_{epochs}ep" + ("" if rand_augment else "_norandaug"),
        method="infomin",
        views=replace(base.views, first=view, second=view, small=plain, small_size=255, small_count=1),
        objective=Objective(temperature=0.15, queue=65_536, key_momentum=0.999),
        optim=replace(base.optim, schedule="epoch_end", final_lr=0.03e-3),
        options={"patch_weight": 0.5},
    )


def densecl_in1k() -> Recipe:
    """DenseCL on ImageNet-1k, batch 256 (WXinlong/DenseCL b64bbb6, configs/selfsup/densecl/densecl_imagenet_200ep.py).

    Its views are MoCo v2's with the flip at the end.
    """
    return replace(
        mocov2_in1k("r50", 200),
        name="densecl_r50_in1k_200ep",
        method="densecl",
        options={"dense_weight": 0.5},
    )
