"""Published runs and small-budget ones: a function each, returning a complete ``Recipe``; variants edit another.

[B] is BYOL (arXiv 2006.07733), [S] is SimSiam (arXiv 2011.10566). Expected scores are ImageNet linear top-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from training.config import Heads, Optim, Recipe, View, Views
from zoo.errors import UserError


def byol_in1k(architecture: str, epochs: int) -> Recipe:
    """BYOL on ImageNet-1k, batch 4096; R50: 72.5 at 300 epochs, 74.3 at 1000 ([B] section 3.3 and app. F)."""
    lr, weight_decay, tau = {  # the official code's presets
        40: (0.45, 1e-6, 0.97),
        100: (0.45, 1e-6, 0.99),
        300: (0.3, 1e-6, 0.99),
        1000: (0.2, 1.5e-6, 0.996),
    }[epochs]
    optim = Optim(lr=lr, weight_decay=weight_decay, tau=tau, epochs=epochs)
    return Recipe(f"byol_{architecture}_in1k_{epochs}ep", "byol", architecture, optim=optim, precision="bf16")


def simsiam_in1k(architecture: str, epochs: int) -> Recipe:
    """SimSiam on ImageNet-1k, batch 512; R50: 68.1 / 70.0 / 70.8 / 71.3 at 100 / 200 / 400 / 800 ([S] table 4)."""
    view = View(min_area=0.2, saturation=0.4, blur_p=0.5)  # official main_simsiam.py
    return Recipe(
        f"simsiam_{architecture}_in1k_{epochs}ep",
        "simsiam",
        architecture,
        zero_init_residual=True,
        views=Views(operations="torchvision", first=view, second=view),
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


def byol_r18_tin32() -> Recipe:
    """BYOL on half of Tiny-ImageNet for two CPU cores and about an hour: R18, 32-pixel views, batch 64, SGD.

    What it scored stands in model_cards/byol_r18_mini.md. A short run of small batches needs a target that moves
    slowly (with a fast one the features fall to a few dimensions), an encoder that starts as a shallow one
    (zero_init_residual), and views that are not harder than 32 pixels allow.
    """
    view = View(min_area=0.3, brightness=0.2, contrast=0.3, blur_p=0.0)
    return replace(
        byol_in1k("r18", 40),
        name="byol_r18_tin32",
        zero_init_residual=True,
        views=Views(size=32, first=view, second=view),
        heads=Heads(hidden=1024, out=256),
        optim=Optim(name="sgd", lr=0.2, batch_size=64, epochs=13, warmup_epochs=0.25, weight_decay=1e-4, tau=0.996),
        precision="fp32",
        monitor_epochs=3,
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


_WIDE = ("r18", "r50", "r50x2", "r50x4", "r200", "r200x2")
RECIPES: dict[str, Callable[[], Recipe]] = (
    {f"byol_{a}_in1k_{e}ep": (lambda a=a, e=e: byol_in1k(a, e)) for a in _WIDE for e in (40, 100, 300, 1000)}
    | {f"simsiam_{a}_in1k_{e}ep": (lambda a=a, e=e: simsiam_in1k(a, e)) for a in _WIDE for e in (100, 200, 400, 800)}
    | {"byol_r18_tin32": byol_r18_tin32, "simsiam_r18_tin32": simsiam_r18_tin32}
)


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: unknown; the nearest name is given.
    """
    from difflib import get_close_matches

    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1, cutoff=0.0)
        raise UserError(f"unknown recipe {name!r}: did you mean {near[0]}? `zoo-train recipes` lists all")
    return RECIPES[name]()
