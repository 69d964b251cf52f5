"""Every recipe by name, with what is published of it: data, hardware, score and where the score stands.

[B] is BYOL (arXiv 2006.07733), [S] is SimSiam (arXiv 2011.10566). A score is of linear evaluation on ImageNet, top-1,
unless said otherwise; those of small-budget runs were measured by others with their own code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from training.recipes.config import Recipe
from training.recipes.imagenet import (
    byol_in1k,
    byol_r50_in1k_1000ep_b512,
    mocov2_in1k,
    simclr_in1k,
    simsiam_in1k,
    supervised_in1k,
    swav_b256_in1k,
    swav_in1k,
    swav_wide_in1k,
)
from training.recipes.small import byol_r18_tin32, cpu_budget, simclr_r18_tin32, simsiam_r18_tin32, small_budget
from zoo.errors import UserError


@dataclass(frozen=True)
class Published:
    """A recipe with what is published of it.

    Attributes:
        make: the recipe.
        data: what it is trained on.
        hardware: what it was published, or is meant, to run on.
        score: expected, with its meaning where that is not linear top-1 on the data; empty where nobody reports one.
        source: where the score stands.
    """

    make: Callable[[], Recipe]
    data: str
    hardware: str
    score: str = ""
    source: str = ""


_METHODS = ("byol", "simsiam", "simclr", "mocov2", "swav", "supervised")
_WIDE = ("r18", "r50", "r50x2", "r50x4", "r200", "r200x2")
_TPU, _GPU8, _GPU1 = "512 TPU v3 cores", "8 V100", "1 RTX A6000"
_IN1K, _S4 = "ImageNet-1k", "[S] table 4"

_BYOL_SCORES = {
    ("r50", 300): ("72.5", "[B] table 5"),
    ("r50", 1000): ("74.3", "[B] table 1"),
    ("r50x2", 1000): ("77.4", "[B] table 1"),
    ("r50x4", 1000): ("78.6", "[B] table 1"),
    ("r200", 1000): ("77.8", "[B] table 9"),
    ("r200x2", 1000): ("79.6", "[B] table 1"),
}
_SIMSIAM_SCORES = {100: "68.1", 200: "70.0", 400: "70.8", 800: "71.3"}
_SIMCLR_SCORES = {
    ("r50", 100): ("66.5", f"{_S4}, a reproduction"),
    ("r50", 200): ("68.3", f"{_S4}, a reproduction"),
    ("r50", 400): ("69.8", f"{_S4}, a reproduction"),
    ("r50", 800): ("70.4", f"{_S4}, a reproduction"),
    ("r50", 1000): ("69.3", "SimCLR table 6"),
    ("r50x2", 1000): ("74.2", "SimCLR table 6"),
    ("r50x4", 1000): ("76.5", "SimCLR table 6"),
}
_MOCO_SCORES = {200: "67.7", 800: "71.1"}
_SWAV_SCORES = {100: "72.1", 200: "73.9", 400: "74.6", 800: "75.3"}
_LIGHTLY = {  # CIFAR-10, batch 512, kNN with k = 200 and t = .1, best epoch
    ("byol", 200): "86.8",
    ("byol", 800): "91.0",
    ("simsiam", 200): "76.4",
    ("simsiam", 800): "90.4",
    ("simclr", 200): "84.8",
    ("simclr", 800): "87.9",
    ("mocov2", 200): "84.7",
    ("mocov2", 800): "89.9",
    ("swav", 200): "84.2",
    ("swav", 800): "88.4",
}
_SIMSIAM_CIFAR = {("simsiam", 800): ", linear 91.8", ("simclr", 800): ", linear 91.1"}  # [S] app. D


def _rows() -> list[Published]:
    rows = [
        Published(lambda a=a, e=e: byol_in1k(a, e), _IN1K, _TPU, *_BYOL_SCORES.get((a, e), ()))  # type: ignore[misc]
        for a in _WIDE
        for e in (40, 100, 300, 1000)
    ]
    rows.append(Published(byol_r50_in1k_1000ep_b512, _IN1K, "64 TPU v3 cores", "73.7", "[B] app. G"))
    rows += [
        Published(
            lambda a=a, e=e: simsiam_in1k(a, e),  # type: ignore[misc]
            _IN1K,
            _GPU8,
            *((_SIMSIAM_SCORES[e], _S4) if a == "r50" else ()),
        )
        for a in _WIDE
        for e in (100, 200, 400, 800)
    ]
    rows += [
        Published(lambda a=a, e=e: simclr_in1k(a, e), _IN1K, "128 TPU v3 cores", *published)  # type: ignore[misc]
        for (a, e), published in _SIMCLR_SCORES.items()
    ]
    rows += [
        Published(lambda e=e: mocov2_in1k("r50", e), _IN1K, _GPU8, score, "MoCo's readme")  # type: ignore[misc]
        for e, score in _MOCO_SCORES.items()
    ]
    rows += [
        Published(lambda e=e: swav_in1k("r50", e), _IN1K, "64 V100", score, "SwAV's readme")  # type: ignore[misc]
        for e, score in _SWAV_SCORES.items()
    ]
    rows += [
        Published(lambda e=e: swav_b256_in1k(e), _IN1K, "4 V100", score, "SwAV's readme")  # type: ignore[misc]
        for e, score in ((200, "72.7"), (400, "74.3"))
    ]
    rows.append(Published(lambda: swav_wide_in1k("r50x2"), _IN1K, "128 V100", "77.3", "SwAV's readme"))
    rows.append(Published(lambda: swav_wide_in1k("r50x4"), _IN1K, "64 V100", "77.9", "SwAV's readme"))
    rows.append(Published(lambda: supervised_in1k("r18"), _IN1K, _GPU8, "69.8 supervised", "torchvision, weights V1"))
    rows.append(Published(lambda: supervised_in1k("r50"), _IN1K, _GPU8, "76.1 supervised", "torchvision, weights V1"))
    for data, words in (("cifar10", "CIFAR-10"), ("tin", "Tiny-ImageNet")):
        for method in _METHODS:
            for epochs in (200, 800):
                knn = _LIGHTLY.get((method, epochs)) if data == "cifar10" else None
                score = f"kNN {knn}{_SIMSIAM_CIFAR.get((method, epochs), '')}" if knn else ""
                source = ("lightly's benchmark" + (", [S] app. D" if "linear" in score else "")) if knn else ""
                rows.append(
                    Published(
                        lambda m=method, d=data, e=epochs: small_budget(m, d, e),  # type: ignore[misc]
                        words,
                        _GPU1,
                        score,
                        source,
                    )
                )
    rows += [
        Published(lambda m=method: cpu_budget(m, 3), "CIFAR-10", "1 CPU core")  # type: ignore[misc]
        for method in _METHODS
        if method != "supervised"
    ]
    half = "Tiny-ImageNet, half"
    rows.append(Published(byol_r18_tin32, half, "2 CPU cores", "linear 12.3", "model_cards/byol_r18_mini.md"))
    rows.append(Published(simsiam_r18_tin32, half, "2 CPU cores"))
    rows.append(Published(simclr_r18_tin32, half, "1 CPU core", "linear 19.5", "model_cards/simclr_r18_mini.md"))
    return rows


RECIPES: Mapping[str, Published] = {row.make().name: row for row in _rows()}


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: unknown; the nearest name is given.
    """
    from difflib import get_close_matches

    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1, cutoff=0.0)
        raise UserError(f"unknown recipe {name!r}: did you mean {near[0]}? `zoo-train recipes` lists all")
    return RECIPES[name].make()
