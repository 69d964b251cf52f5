"""BYOL on ImageNet-1k, and BYOL without batch statistics.

[B] is BYOL (arXiv 2006.07733), [S] is SimSiam (arXiv 2011.10566), which reproduced it.
"""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Optim, Recipe


def byol_in1k(architecture: str, epochs: int) -> Recipe:
    """BYOL on ImageNet-1k, batch 4096 ([B] section 3.3 and app. F; deepmind-research, ``byol/configs/byol.py``).

    200, 400 and 800 epochs are [S]'s reproduction. The network has TensorFlow's padding and haiku's initialisers, as in
    the official code.
    """
    # Look up the hyper-parameters that were tuned for this length.
    lr, weight_decay, tau = {
        40: (0.45, 1e-6, 0.97),
        100: (0.45, 1e-6, 0.99),
        200: (0.3, 1e-6, 0.99),  # [S] footnote 6
        300: (0.3, 1e-6, 0.99),
        400: (0.3, 1e-6, 0.99),  # [S] footnote 6
        800: (0.2, 1.5e-6, 0.996),  # [S] footnote 6
        1000: (0.2, 1.5e-6, 0.996),
    }[epochs]
    return Recipe(
        f"byol_{architecture}_in1k_{epochs}ep",
        "byol",
        architecture,
        padding="same",
        project_first=architecture == "r18",
        initialiser="haiku",
        optim=Optim(lr=lr, weight_decay=weight_decay, tau=tau, epochs=epochs, drop_last=False),
        precision="bf16",
    )


def byol_r50_in1k_1000ep_b512() -> Recipe:
    """BYOL with a batch of 512, on 64 TPU cores ([B] app. G)."""
    base = byol_in1k("r50", 1000)
    optim = replace(base.optim, batch_size=512, lr=0.4, tau=0.9995, weight_decay=1.5e-6)
    return replace(base, name="byol_r50_in1k_1000ep_b512", optim=optim)


def byol_gn_in1k() -> Recipe:
    """BYOL with group norm and weight standardisation (arXiv 2010.10241), with the constants of BYOL's 1000 epochs.

    The paper reports 73.9 with its own rates, which could not be looked up. Padding is torch's; 32 groups are group
    norm's own default.
    """
    return replace(
        byol_in1k("r50", 1000),
        name="byol_gn_r50_in1k_1000ep",
        method="byol_gn",
        architecture="r50_gn",
        padding="symmetric",
        options={"groups": 32},
    )
