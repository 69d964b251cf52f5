"""CPC v2 on ImageNet-1k."""

from __future__ import annotations

from training.recipes.config import Heads, Optim, Recipe, View, Views


def cpc_in1k() -> Recipe:
    """CPC v2 on ImageNet-1k, batch 512, 200 epochs (arXiv 1905.09272v3; no official code).

    Grid, context network, targets and steps are the paper's pseudo-code's. What the paper says of augmentation and
    optimiser could not be looked up: Adam at 4e-4 without a schedule, and the gradient's norm of .01 at most, are those
    of ports of it. The paper resizes to 300 and crops 260; here the crop has that area. Weights are not averaged.
    """
    view = View(min_area=0.75, max_area=0.75, grayscale_p=0.25, blur_p=0.0, saturation=0.4)
    return Recipe(
        "cpc_r50_in1k_200ep",
        "cpc",
        "r50_ln",
        views=Views(size=260, operations="torchvision", first=view, second=None),
        heads=Heads(hidden=256, out=64),
        optim=Optim(
            name="adamw",  # without weight decay it is Adam
            lr=2e-4,  # 4e-4 at 512
            batch_size=512,
            epochs=200,
            warmup_epochs=0,
            schedule="decay",
            decay_epochs=200,  # never
            weight_decay=0.0,
        ),
        options={
            "patch": 80,
            "stride": 36,
            "first_step": 3,
            "last_step": 3,
            "layers": 5,
            "drop_colours": 0.5,
            "clip": 0.01,
        },
        precision="bf16",
    )
