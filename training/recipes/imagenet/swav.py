"""SwAV on ImageNet-1k; [S] is SimSiam (arXiv 2011.10566), which reproduced it."""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Heads, Objective, Optim, Recipe, Views
from training.recipes.imagenet.views import SIMCLR_VIEW


def swav_in1k(architecture: str, epochs: int) -> Recipe:
    """SwAV on ImageNet-1k, batch 4096, 2 x 224 + 6 x 96 (arXiv 2006.09882, official ``scripts``).

    BN's statistics are those of 8 GPUs with 64 images each (``--sync_bn apex``, ``--syncbn_process_group_size 8``).
    """
    large = replace(SIMCLR_VIEW, min_area=0.14)  # official multicropdataset.py, min_scale_crops
    return Recipe(
        f"swav_{architecture}_in1k_{epochs}ep",
        "swav",
        architecture,
        bn_group_images=512,  # 8 x 64
        views=Views(
            operations="torchvision",
            first=large,
            second=large,
            small=replace(SIMCLR_VIEW, min_area=0.05, max_area=0.14),
            small_size=96,
            small_count=6,
            red_std=0.228,  # official multicropdataset.py
        ),
        heads=Heads(hidden=2048, out=128, prototypes=3000),
        objective=Objective(temperature=0.1, epsilon=0.05, sinkhorn_iterations=3, frozen_steps=313),
        optim=Optim(
            name="larc",
            schedule="swav",
            lr=0.3,  # 4.8 at 4096
            final_lr=0.0003,  # .0048
            start_lr=0.3 / 16,  # .3, official start_warmup
            epochs=epochs,
            weight_decay=1e-6,
        ),
        precision="bf16",
    )


def swav_wide_in1k(architecture: str) -> Recipe:
    """SwAV with wide networks, 400 epochs, 2 x 224 + 4 x 96 (official ``swav_RN50w{2,4}_400ep_pretrain.sh``)."""
    # Start from the recipe of the standard width.
    base = swav_in1k(architecture, 400)
    views, objective, batch, bn_images = replace(base.views, small_count=4), base.objective, 4096, 8 * 32
    if architecture == "r50x4":
        first, small = replace(SIMCLR_VIEW, min_area=0.08), replace(SIMCLR_VIEW, min_area=0.08, max_area=0.14)
        views = replace(views, first=first, second=first, small=small)
        objective, batch, bn_images = replace(objective, queue=2560, queue_from_epoch=0), 2560, 8 * 40
    # Keep the rates of the script whatever the batch, as a recipe states them for 256.
    scale = 4096 / batch  # the script states the learning rates for a batch of 4096
    optim = base.optim
    optim = replace(
        optim, batch_size=batch, lr=scale * optim.lr, final_lr=scale * optim.final_lr, start_lr=scale * optim.start_lr
    )
    heads = replace(base.heads, hidden=8192)
    return replace(base, bn_group_images=bn_images, views=views, heads=heads, objective=objective, optim=optim)


def swav_2x224_in1k(epochs: int, layers: int = 2) -> Recipe:
    """SwAV without small crops (official ``swav_400ep_2x224_pretrain.sh``).

    With three layers in the projector it is [S] table 4's "repro.+". The paper says neither the width of the third
    layer nor the smallest crop; they are the projector's hidden width and the script's .08 here.
    """
    base = swav_in1k("r50", epochs)
    large = replace(base.views.first, min_area=0.08)
    return replace(
        base,
        name=f"{base.name}_2x224" + ("_3layer" if layers == 3 else ""),
        views=replace(base.views, first=large, second=large, small=None, small_count=0),
        heads=replace(base.heads, mlp_layers=layers),
    )


def swav_b256_in1k(epochs: int) -> Recipe:
    """SwAV with a batch of 256 on 4 GPUs: a queue from epoch 15 (official ``swav_200ep_bs256_pretrain.sh``)."""
    base = swav_in1k("r50", epochs)
    return replace(
        base,
        name=f"swav_r50_in1k_{epochs}ep_b256",
        bn_group_images=0,  # --sync_bn pytorch: all 4 GPUs
        objective=replace(base.objective, queue=3840, queue_from_epoch=15, frozen_steps=5005),
        optim=replace(base.optim, batch_size=256, lr=0.6, final_lr=0.0006, start_lr=0.0, warmup_epochs=0),
    )
