"""SimCLR on ImageNet-1k; [S] is SimSiam (arXiv 2011.10566), which reproduced it."""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Heads, Objective, Optim, Recipe, Views
from training.recipes.imagenet.views import SIMCLR_VIEW


def simclr_in1k(architecture: str, epochs: int) -> Recipe:
    """SimCLR v1 on ImageNet-1k, batch 4096 (arXiv 2002.05709 section 2.2; google-research/simclr at be133b3).

    Weight decay is 1e-6 in the paper and in v1's ``run.py``. The readme's 1e-4 came with SimCLR v2 (244e712).

    The official code feeds images in [0, 1]; here they are normalised as for all methods. It draws one blur radius per
    view and replica's batch, here one per image. It makes one more step, with a learning rate of almost 0.
    """
    return Recipe(
        f"simclr_{architecture}_in1k_{epochs}ep",
        "simclr",
        architecture,
        zero_init_residual=True,  # official resnet.py: init_zero
        padding="same-pool",  # official resnet.py: fixed_padding in convolutions, SAME in the pool
        initialiser="tensorflow",
        views=Views(operations="simclr", first=SIMCLR_VIEW, second=SIMCLR_VIEW),
        heads=Heads(out=128, projector_layers=2),
        objective=Objective(temperature=0.1),
        optim=Optim(name="lars_classic", lr=0.3, weight_decay=1e-6, epochs=epochs, drop_last=False),  # 4.8 at 4096
        precision="bf16",
    )


def simclr_3layer_in1k(epochs: int) -> Recipe:
    """SimCLR with a three-layer projector, [S] table 4's "repro.+" ([S] app. C)."""
    base = simclr_in1k("r50", epochs)
    return replace(base, name=f"{base.name}_3layer", heads=replace(base.heads, projector_layers=3))
