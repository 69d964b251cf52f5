"""SimSiam on ImageNet-1k; [S] is SimSiam (arXiv 2011.10566)."""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Heads, Optim, Recipe, Views
from training.recipes.imagenet.views import MOCO_VIEW


def simsiam_in1k(architecture: str, epochs: int) -> Recipe:
    """SimSiam on ImageNet-1k, batch 512 ([S] section 3, official ``main_simsiam.py``; table 4's batch was 256)."""
    return Recipe(
        f"simsiam_{architecture}_in1k_{epochs}ep",
        "simsiam",
        architecture,
        zero_init_residual=True,
        views=Views(operations="torchvision", first=MOCO_VIEW, second=MOCO_VIEW),
        heads=Heads(hidden=512, out=2048),
        optim=Optim(
            name="sgd",
            lr=0.05,
            batch_size=512,
            epochs=epochs,
            warmup_epochs=0,
            schedule="epoch",
            weight_decay=1e-4,
            fixed_predictor_lr=True,
        ),
        precision="bf16",
    )


def simsiam_b256_in1k(epochs: int) -> Recipe:
    """SimSiam with a batch of 256, as in [S] table 4."""
    base = simsiam_in1k("r50", epochs)
    return replace(base, name=f"{base.name}_b256", optim=replace(base.optim, batch_size=256))


def simsiam_optimal_in1k() -> Recipe:
    """SimSiam "optimal" of [S] table 5: better in detection, similar on ImageNet ([S] section 6.1).

    The paper gives lr .5 and weight decay 1e-5, and 200 epochs for all rows of the table. It does not give the batch:
    256, as in table 4, is assumed, which makes .5 the base rate.
    """
    base = simsiam_b256_in1k(200)
    return replace(base, name="simsiam_r50_in1k_200ep_optimal", optim=replace(base.optim, lr=0.5, weight_decay=1e-5))
