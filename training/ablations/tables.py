"""The ablation tables: the recipe of each row in two settings, and the papers' result for it.

Published numbers are in ``zoo/evaluate/published.json``, in the order of the rows here. They are linear evaluations of
R50 on ImageNet after 300 epochs ([B] tables 5, 16, 17); those of the stop-gradient are from [S] figure 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from training.recipes import imagenet
from training.recipes.config import Heads, Objective, Optim, Recipe, View, Views
from zoo.report.tables import published

_PUBLISHED_SIZES = (4096, 2048, 1024, 512, 256, 128, 64)


@dataclass(frozen=True)
class AblationRow:
    """A row of a table.

    Attributes:
        label: the setting that differs from the other rows.
        method: the method's column, in tables that compare two methods; otherwise empty.
        published: the paper's accuracy in percent.
    """

    label: str
    recipe: Recipe
    published: float
    method: str = ""

    @property
    def name(self) -> str:
        """The label with the method, for people."""
        return f"{self.method}, {self.label}" if self.method else self.label


@dataclass(frozen=True)
class Setting:
    """The scale at which an ablation is run.

    Attributes:
        images, queries: number of training and test images; 0 for all.
        score: ``knn`` (k = 20, t = .07) or ``linear``.
        batch_sizes: numbers of images normalised together, each half of the one before; the first is the optimiser's.
        byol, simclr, simsiam: the recipes that the rows vary.
        all_views: ``views`` has all rows of [B] table 17, not only those of figure 3b.
    """

    name: str
    images: int
    queries: int
    score: str
    batch_sizes: tuple[int, ...]
    byol: Recipe
    simclr: Recipe
    simsiam: Recipe
    all_views: bool = False


@dataclass(frozen=True)
class Ablation:
    """A table of the papers.

    Attributes:
        source: paper and table of the published numbers.
        rows: returns the rows for a setting.
    """

    title: str
    source: str
    rows: Callable[[Setting], list[AblationRow]]


def full() -> Setting:
    """As published: R50, ImageNet-1k, batch 4096, 300 epochs ([B] section 5); SimSiam 100 epochs ([S] section 4).

    [B]'s SimCLR was trained with BYOL's views: table 17 has SimCLR's accuracy without blur or solarize in the second
    view T', which SimCLR's own views do not have. That code was never released. BYOL's crops are a guess.
    """
    byol = replace(imagenet.byol_in1k("r50", 300), name="byol")
    simclr = replace(imagenet.simclr_in1k("r50", 300), name="simclr", views=Views())
    simsiam = replace(imagenet.simsiam_in1k("r50", 100), name="simsiam")
    simsiam = replace(simsiam, optim=replace(simsiam.optim, fixed_predictor_lr=False))  # [S] table 1, the baseline
    return Setting("full", 0, 0, "linear", _PUBLISHED_SIZES, byol, simclr, simsiam, all_views=True)


def small() -> Setting:
    """For two CPU cores: a narrow R10 with the 3x3 stem, 20-pixel views of 5 000 images, 4 epochs of batch 64, SGD.

    20 pixels is the smallest size at which BYOL's blur has more than one tap.
    """
    # Weaken the views and shorten the schedule so that a CPU can train every row.
    view = View(min_area=0.2, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    views = Views(size=20, first=view, second=replace(view, blur_p=0.1, solarize_p=0.2))
    optim = Optim(name="sgd", lr=0.2, batch_size=64, epochs=4, warmup_epochs=0.25, weight_decay=1e-4, tau=0.99)
    base = Recipe(
        "byol",
        "byol",
        "r10",
        stem="cifar",
        zero_init_residual=True,
        views=views,
        heads=Heads(hidden=256, out=64),
        optim=optim,
        monitor_epochs=0,
        checkpoint_steps=100,
    )
    # Derive the other methods from the same base, so that they differ only where the method needs it.
    simclr = replace(base, name="simclr", method="simclr", heads=Heads(out=64, projector_layers=2))
    simsiam = replace(
        base,
        name="simsiam",
        method="simsiam",
        heads=Heads(hidden=64, out=256, projector_layers=2),
        # at this learning rate the outputs collapse within these steps if the stop-gradient is missing
        optim=replace(optim, lr=2.0, fixed_predictor_lr=True, weight_decay=5e-4),
    )
    return Setting("small", 5000, 1000, "knn", (256, 128, 64, 32, 16), base, simclr, simsiam)


def _published(table: str) -> list[list[float]]:
    """Return the rows of a table of ``published.json``; the last value of a row is the top-1 in percent."""
    (found,) = (t for t in published() if t["id"] == table)
    return [row["values"] for row in found["rows"]]


def _target(setting: Setting) -> list[AblationRow]:
    """tau follows the annealing of section 3.3, except in the last row, where it stays 0 ([B] table 5a, footnote)."""
    labels = ("constant random network", *["moving average"] * 3, "stop gradient of online")
    rows = []
    for label, (tau, score) in zip(labels, _published("ablation-target"), strict=True):
        optim = replace(setting.byol.optim, tau=tau, constant_tau=tau == 0)
        rows.append(AblationRow(f"{label}, tau = {tau:g}", replace(setting.byol, optim=optim), score))
    return rows


def _beta(setting: Setting) -> list[AblationRow]:
    """Steps between BYOL and SimCLR, temperature .1 ([B] table 5b; app. F.4: gradients flow without a target)."""
    # List the published rows: is there a predictor, and a target network?
    table = (
        ("BYOL", True, True),
        ("", True, True),
        ("", False, True),
        ("SimCLR", False, False),
        ("", True, False),
        ("", True, False),
        ("", False, True),
        ("", False, False),
    )
    rows = []
    # Join each row with its published beta and score.
    for (name, predictor, target), (beta, score) in zip(table, _published("ablation-simclr"), strict=True):
        objective = Objective(temperature=0.1, predictor=predictor, target=target, beta=beta)
        signs = f"predictor {'x' if predictor else '-'}, target {'x' if target else '-'}, beta {beta:g}"
        label = f"{signs} ({name})" if name else signs
        rows.append(AblationRow(label, replace(setting.byol, objective=objective), score))
    return rows


def _batch_size(setting: Setting) -> list[AblationRow]:
    """[B] app. F.2: a batch N times smaller, gradients averaged over N batches, one target update in N batches.

    The optimiser's batch is therefore constant, and ``accumulate`` splits it: BN statistics and SimCLR's negatives are
    those of the small batch. Each row has the published number for the same N.
    """
    scores = _published("ablation-batch-size")  # BYOL, SimCLR; N = 1, 2, 4, ... of 4096
    largest = setting.batch_sizes[0]
    rows = []
    # Keep the batch of an update and split it into ever smaller parts.
    for column, (method, base) in enumerate((("BYOL", setting.byol), ("SimCLR", setting.simclr))):
        optim = replace(base.optim, batch_size=largest)
        for size, published_size, score in zip(setting.batch_sizes, _PUBLISHED_SIZES, scores, strict=False):
            recipe = replace(base, optim=optim, accumulate=largest // size)
            label = str(size) if size == published_size else f"{size} (published: {published_size})"
            rows.append(AblationRow(label, recipe, score[column], method))
    return rows


_GRAYSCALE, _JITTER, _FLIP = {"grayscale_p": 0.0}, {"jitter_p": 0.0}, {"flip_p": 0.0}
_BLUR, _SOLARIZE = {"blur_p": 0.0}, {"solarize_p": 0.0}
_COLOR = _JITTER | _GRAYSCALE
_VIEWS: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]] = {
    # row of [B] table 17: changes of the first and of the second view, T and T'; the five rows of figure 3b first
    "baseline": ({}, {}),
    "remove grayscale": (_GRAYSCALE, _GRAYSCALE),
    "remove color": (_COLOR, _COLOR),
    "crop and blur only": (_COLOR | _SOLARIZE | _FLIP, _COLOR | _SOLARIZE | _FLIP),
    "crop only": (_COLOR | _SOLARIZE | _FLIP | _BLUR, _COLOR | _SOLARIZE | _FLIP | _BLUR),
    "remove flip": (_FLIP, _FLIP),
    "remove blur": (_BLUR, _BLUR),
    "remove color jittering": (_JITTER, _JITTER),
    "remove blur in T'": ({}, _BLUR),
    "remove solarize in T'": ({}, _SOLARIZE),
    "remove blur and solarize in T'": ({}, _BLUR | _SOLARIZE),
    "symmetric blurring and solarization": ({"blur_p": 0.5, "solarize_p": 0.2}, {"blur_p": 0.5, "solarize_p": 0.2}),
    "crop and flip only": (_COLOR | _SOLARIZE | _BLUR, _COLOR | _SOLARIZE | _BLUR),
    "crop and color only": (_SOLARIZE | _FLIP | _BLUR, _SOLARIZE | _FLIP | _BLUR),
}
_FIGURE_3B = 5


def _views(setting: Setting) -> list[AblationRow]:
    """Augmentations removed, or changed in one view ([B] figure 3b and table 17)."""
    labels = list(_VIEWS) if setting.all_views else list(_VIEWS)[:_FIGURE_3B]
    # Look up the published score of each row.
    (table,) = (t for t in published() if t["id"] == "ablation-views")
    scores = {row["method"]: row["values"] for row in table["rows"]}
    rows = []
    # Apply the changes of each row to both methods' own views.
    for column, (method, base) in enumerate((("BYOL", setting.byol), ("SimCLR", setting.simclr))):
        for label in labels:
            pair = (base.views.first, base.views.second or base.views.first)
            changes: list[dict[str, Any]] = [dict(change) for change in _VIEWS[label]]
            first, second = (replace(view, **change) for view, change in zip(pair, changes, strict=True))
            recipe = replace(base, views=replace(base.views, first=first, second=second))
            rows.append(AblationRow(label, recipe, scores[label][column], method))
    return rows


def _stop_gradient(setting: Setting) -> list[AblationRow]:
    """[S] section 4.1, figure 2: 67.7 with the stop-gradient (linear, 100 epochs), .1 (chance) without.

    67.7 +- .1 (five trials) is table 1's baseline, whose predictor follows the cosine; 68.1 is that of a constant rate.
    The small setting, whose results are recorded, keeps the constant rate.
    """
    base = replace(setting.simsiam, monitor_epochs=1)
    without = replace(base, objective=replace(base.objective, stop_gradient=False))
    (with_it,), (without_it,) = _published("ablation-stop-gradient")
    return [AblationRow("with stop-gradient", base, with_it), AblationRow("without stop-gradient", without, without_it)]


ABLATIONS: Mapping[str, Ablation] = {
    "target": Ablation("Target modes", "[B] table 5a", _target),
    "beta": Ablation("Between BYOL and SimCLR", "[B] table 5b", _beta),
    "batch-size": Ablation("Batch size", "[B] figure 3a, table 16", _batch_size),
    "views": Ablation("Removing image transformations", "[B] figure 3b, table 17", _views),
    "stop-gradient": Ablation("Stop-gradient", "[S] figure 2", _stop_gradient),
}
