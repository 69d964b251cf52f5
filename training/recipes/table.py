"""Every recipe by name, with its data, hardware, published score and the source of that score.

[B] is BYOL (arXiv 2006.07733), [S] is SimSiam (arXiv 2011.10566). Scores are top-1 of linear evaluation on ImageNet
unless they say otherwise, of one run unless ``runs`` says otherwise. Those of the small-budget runs were measured by
others with their own code. [S] table 4's scores stand beside recipes with [S]'s details, not beside the originals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from training.recipes.config import Recipe
from training.recipes.imagenet import (
    barlowtwins_in1k,
    byol_gn_in1k,
    byol_in1k,
    byol_r50_in1k_1000ep_b512,
    cmc_in1k,
    cmc_pycontrast_in1k,
    cpc_in1k,
    densecl_in1k,
    infomin_in1k,
    instdisc_in1k,
    instdisc_pycontrast_in1k,
    localagg_in1k,
    mocov1_in1k,
    mocov2_in1k,
    mocov2_symmetric_in1k,
    mocov3_in1k,
    pirl_in1k,
    pirl_pycontrast_in1k,
    simclr_3layer_in1k,
    simclr_in1k,
    simsiam_b256_in1k,
    simsiam_in1k,
    simsiam_optimal_in1k,
    supervised_in1k,
    swav_2x224_in1k,
    swav_b256_in1k,
    swav_in1k,
    swav_wide_in1k,
    vicreg_in1k,
)
from training.recipes.plugins import entry_point, import_object
from training.recipes.small import (
    SmallData,
    byol_r18_tin32,
    byol_r18_tin64,
    cpu_budget,
    mocov2_demo,
    simclr_r18_tin32,
    simclr_r18_tin64,
    simsiam_r18_tin32,
    small_budget,
)
from zoo.errors import UserError, did_you_mean


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe and the published result for it.

    Attributes:
        make: returns the recipe.
        data: training data.
        hardware: hardware of the published run, or that the recipe is meant for.
        score: expected accuracy in percent, linear top-1 on ``data`` unless it says otherwise; empty where nobody
            reports one.
        source: paper and table, or repository, of ``score``.
        runs: what ``score`` is of several runs or epochs, e.g. ``mean of 3 seeds``; empty for one run's last epoch, or
            where its source does not say.
    """

    make: Callable[[], Recipe]
    data: str
    hardware: str
    score: str = ""
    source: str = ""
    runs: str = ""


_METHODS: tuple[str, ...] = ("byol", "simsiam", "simclr", "mocov2", "swav", "supervised")
_MORE_METHODS = (
    "instdisc",
    "cmc",
    "pirl",
    "infomin",
    "localagg",
    "cpc",
    "byol_gn",
    "mocov3",
    "densecl",
    "barlowtwins",
    "vicreg",
)
_SMALL_DATA: dict[SmallData, str] = {"cifar10": "CIFAR-10", "tin": "Tiny-ImageNet"}
_ARCHITECTURES = ("r18", "r50", "r50x2", "r50x4", "r200", "r200x2")
_TPU, _GPU8, _GPU1 = "512 TPU v3 cores", "8 V100", "1 RTX A6000"
GROUP = "siamese_zoo.recipes"  # of entry points
_GPUS, _GPU16, _GPU32 = "GPUs, number not stated", "16 V100", "32 GPUs"
_IN1K, _S4 = "ImageNet-1k", "[S] table 4"

_BYOL_SCORES: dict[tuple[str, int], tuple[str, ...]] = {
    ("r50", 100): ("66.5", _S4),
    ("r50", 300): ("72.5", "[B] table 5", "mean of 3 seeds"),
    ("r50", 1000): ("74.3", "[B] table 1"),
    ("r50x2", 1000): ("77.4", "[B] table 1"),
    ("r50x4", 1000): ("78.6", "[B] table 1"),
    ("r200", 1000): ("77.8", "[B] table 9"),
    ("r200x2", 1000): ("79.6", "[B] table 1"),
}
_EPOCHS_S4 = (100, 200, 400, 800)
_TABLE_4 = {  # [S]'s reproductions, by epochs
    "byol": ("66.5", "70.6", "73.2", "74.3"),
    "simsiam": ("68.1", "70.0", "70.8", "71.3"),
    "simclr": ("66.5", "68.3", "69.8", "70.4"),
    "mocov2": ("67.4", "69.9", "71.0", "72.2"),
    "swav": ("66.5", "69.1", "70.7", "71.8"),
}
_SIMCLR_SCORES: dict[tuple[str, int], tuple[str, ...]] = {  # of the two-layer projector
    ("r50", 100): ("64.5", "SimCLR app. A"),
    ("r50", 200): ("66.6", "[S] table C.1, the original"),
    ("r50", 400): (),
    ("r50", 800): ("68.3", "[S] table C.1, the original"),
    ("r50", 1000): ("69.3", "SimCLR table 6"),
    ("r50x2", 1000): ("74.2", "SimCLR table 6"),
    ("r50x4", 1000): ("76.5", "SimCLR table 6"),
}
_MOCO_SCORES = {200: ("67.5 +- .1", "MoCo's readme", "mean and std of 5; the released one is the best, 67.7")}
_MOCO_SCORES[800] = ("71.1", "MoCo's readme", "the released one")
_MOCO_DEMO_KNN = {200: "82.6", 400: "86.3", 800: "88.7"}
_SWAV_SCORES = {100: "72.1", 200: "73.9", 400: "74.6", 800: "75.3"}
_LIGHTLY_KNN = {  # CIFAR-10, batch 512, kNN with k = 200 and t = .1
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
_SIMSIAM_LINEAR = {("simsiam", 800): "91.8", ("simclr", 800): "91.1"}  # CIFAR-10, [S] app. D


def _table_4(method: str, make: Callable[[int], Recipe], hardware: str) -> list[RecipeEntry]:
    scores = zip(_EPOCHS_S4, _TABLE_4[method], strict=True)
    return [RecipeEntry(partial(make, epochs), _IN1K, hardware, score, _S4) for epochs, score in scores]


def _byol() -> list[RecipeEntry]:
    entries = [
        RecipeEntry(
            partial(byol_in1k, architecture, epochs), _IN1K, _TPU, *_BYOL_SCORES.get((architecture, epochs), ())
        )
        for architecture in _ARCHITECTURES
        for epochs in (40, 100, 300, 1000)
    ]
    reproduced = [e for e in _table_4("byol", partial(byol_in1k, "r50"), _TPU) if e.make().optim.epochs != 100]
    return [
        *entries,
        *reproduced,
        RecipeEntry(byol_r50_in1k_1000ep_b512, _IN1K, "64 TPU v3 cores", "73.7", "[B] app. G"),
    ]


def _simsiam() -> list[RecipeEntry]:
    readme = {("r50", 100): ("68.1", "SimSiam's readme")}
    entries = [
        RecipeEntry(partial(simsiam_in1k, architecture, epochs), _IN1K, _GPU8, *readme.get((architecture, epochs), ()))
        for architecture in _ARCHITECTURES
        for epochs in _EPOCHS_S4
    ]
    detection = "VOC07+12 AP50 82.4, COCO AP 39.2"
    return [
        *entries,
        *_table_4("simsiam", simsiam_b256_in1k, _GPU8),
        RecipeEntry(simsiam_optimal_in1k, _IN1K, _GPU8, detection, "[S] table 5", "VOC: mean of 5 trials"),
    ]


def _simclr() -> list[RecipeEntry]:
    tpu = "128 TPU v3 cores"
    return [
        *(
            RecipeEntry(partial(simclr_in1k, architecture, epochs), _IN1K, tpu, *found)
            for (architecture, epochs), found in _SIMCLR_SCORES.items()
        ),
        *_table_4("simclr", simclr_3layer_in1k, tpu),
    ]


def _mocov2() -> list[RecipeEntry]:
    return [
        *(
            RecipeEntry(partial(mocov2_in1k, "r50", epochs), _IN1K, _GPU8, *found)
            for epochs, found in _MOCO_SCORES.items()
        ),
        *_table_4("mocov2", mocov2_symmetric_in1k, _GPU8),
    ]


def _swav() -> list[RecipeEntry]:
    readme = ("SwAV's readme", "the released one")
    return [
        *(
            RecipeEntry(partial(swav_in1k, "r50", epochs), _IN1K, "64 V100", score, *readme)
            for epochs, score in _SWAV_SCORES.items()
        ),
        RecipeEntry(partial(swav_2x224_in1k, 400), _IN1K, "64 V100", "70.1", *readme),
        *_table_4("swav", partial(swav_2x224_in1k, layers=3), "64 V100"),
        RecipeEntry(partial(swav_b256_in1k, 200), _IN1K, "4 V100", "72.7", *readme),
        RecipeEntry(partial(swav_b256_in1k, 400), _IN1K, "4 V100", "74.3", *readme),
        RecipeEntry(partial(swav_wide_in1k, "r50x2"), _IN1K, "128 V100", "77.3", *readme),
        RecipeEntry(partial(swav_wide_in1k, "r50x4"), _IN1K, "64 V100", "77.9", *readme),
    ]


def _more() -> list[RecipeEntry]:
    pyc = "PyContrast's readme"
    return [
        RecipeEntry(instdisc_in1k, _IN1K, _GPUS, "54.99", "VISSL's model zoo, of lemniscate's network"),
        RecipeEntry(instdisc_pycontrast_in1k, _IN1K, _GPUS, "59.5", pyc),
        RecipeEntry(cmc_in1k, _IN1K, _GPUS),
        RecipeEntry(cmc_pycontrast_in1k, _IN1K, _GPUS, "58.6", pyc),
        RecipeEntry(partial(pirl_in1k, 200), _IN1K, _GPU32, "65.8", "VISSL's model zoo"),
        RecipeEntry(partial(pirl_in1k, 800), _IN1K, _GPU32, "69.9", "VISSL's model zoo"),
        RecipeEntry(pirl_pycontrast_in1k, _IN1K, _GPUS, "61.7", pyc),
        RecipeEntry(localagg_in1k, _IN1K, _GPUS, "60.2", "the paper, best layer, ten crops"),
        RecipeEntry(cpc_in1k, _IN1K, _GPUS),
        RecipeEntry(partial(mocov3_in1k, 100), _IN1K, _GPU16, "68.9", "MoCo v3's readme", "the released one"),
        RecipeEntry(partial(mocov3_in1k, 300), _IN1K, _GPU16, "72.8", "MoCo v3's readme", "the released one"),
        RecipeEntry(partial(mocov3_in1k, 1000), _IN1K, _GPU16, "74.6", "MoCo v3's readme", "the released one"),
        RecipeEntry(densecl_in1k, _IN1K, _GPU8, "VOC detection AP 58.7", "DenseCL's readme", "mean of 5 trials"),
        RecipeEntry(byol_gn_in1k, _IN1K, _TPU),
        RecipeEntry(partial(mocov1_in1k, "r50"), _IN1K, _GPU8, "60.6", "MoCo's readme", "the released one"),
        RecipeEntry(partial(mocov1_in1k, "r50x2"), _IN1K, _GPUS, "65.4", "arXiv 1911.05722"),
        RecipeEntry(partial(mocov1_in1k, "r50x4"), _IN1K, _GPUS, "68.6", "arXiv 1911.05722"),
        RecipeEntry(partial(barlowtwins_in1k, 1000), _IN1K, _GPU16, "73.5", "the official readme", "the released one"),
        RecipeEntry(partial(vicreg_in1k, 1000), _IN1K, _GPU32, "73.2", "the official readme", "the released one"),
        RecipeEntry(partial(vicreg_in1k, 100), _IN1K, "8 GPUs"),
        RecipeEntry(partial(infomin_in1k, 200), _IN1K, _GPU8, "70.1", pyc, "the released one"),
        RecipeEntry(partial(infomin_in1k, 800), _IN1K, _GPU8, "73.0", pyc, "the released one"),
        RecipeEntry(partial(infomin_in1k, 200, 0), _IN1K, _GPU8),
        RecipeEntry(partial(infomin_in1k, 800, 0), _IN1K, _GPU8),
    ]


def _supervised() -> list[RecipeEntry]:
    source = "torchvision, weights V1"
    return [
        RecipeEntry(partial(supervised_in1k, "r18"), _IN1K, _GPU8, "69.8 supervised", source),
        RecipeEntry(partial(supervised_in1k, "r50"), _IN1K, _GPU8, "76.1 supervised", source),
    ]


def _small_budget() -> list[RecipeEntry]:
    entries = [
        RecipeEntry(partial(small_budget, method, data, epochs), words, _GPU1, *_cifar10_score(method, data, epochs))
        for data, words in _SMALL_DATA.items()
        for method in _METHODS
        for epochs in (200, 800)
    ]
    demo = [
        RecipeEntry(partial(mocov2_demo, epochs), "CIFAR-10", "1 GPU", f"kNN {knn}", "MoCo's CIFAR-10 demonstration")
        for epochs, knn in _MOCO_DEMO_KNN.items()
    ]
    return [*entries, *demo]


def _cifar10_score(method: str, data: SmallData, epochs: int) -> tuple[str, ...]:
    """Return score, source and what the score is of, or nothing where nobody reports a score."""
    knn = _LIGHTLY_KNN.get((method, epochs))
    if data != "cifar10" or knn is None:
        return ()
    if (linear := _SIMSIAM_LINEAR.get((method, epochs))) is not None:
        return f"kNN {knn}, linear {linear}", "lightly's benchmark, [S] app. D", "kNN: best epoch"
    return f"kNN {knn}", "lightly's benchmark", "best epoch"


def _cpu_budget() -> list[RecipeEntry]:
    half = "Tiny-ImageNet, half"
    return [
        *(
            RecipeEntry(partial(cpu_budget, method, 3), "CIFAR-10", "1 CPU core")
            for method in (*_METHODS, "mocov1", *_MORE_METHODS)
        ),
        RecipeEntry(byol_r18_tin32, half, "2 CPU cores", "linear 12.8", "model_cards/byol_r18_mini.tin32.md"),
        RecipeEntry(simsiam_r18_tin32, half, "2 CPU cores"),
        RecipeEntry(simclr_r18_tin32, half, "1 CPU core", "linear 19.8", "model_cards/simclr_r18_mini.tin32.md"),
        RecipeEntry(byol_r18_tin64, _SMALL_DATA["tin"], "1 CPU core", "linear 14.0", "model_cards/byol_r18_mini.md"),
        RecipeEntry(
            simclr_r18_tin64, _SMALL_DATA["tin"], "1 CPU core", "linear 25.6", "model_cards/simclr_r18_mini.md"
        ),
    ]


_ENTRIES = [
    *_byol(),
    *_simsiam(),
    *_simclr(),
    *_mocov2(),
    *_swav(),
    *_supervised(),
    *_more(),
    *_small_budget(),
    *_cpu_budget(),
]
RECIPES: Mapping[str, RecipeEntry] = {entry.make().name: entry for entry in _ENTRIES}
ALIASES: Mapping[str, str] = {  # names of version 0.2, which did not say whose hyper-parameters a small recipe has
    name.removesuffix(whose): name for name in RECIPES for whose in ("_lightly", "_paper") if name.endswith(whose)
}


def find(name: str) -> Recipe:
    """Return the recipe called ``name``; one found by an alias keeps the alias as its name, so that runs resume.

    A recipe of the user's own is ``MODULE:NAME`` or ``FILE.py:NAME``, or an entry point of an installed package in the
    group ``siamese_zoo.recipes``. It is a ``Recipe``, or a function without arguments that returns one.

    Raises:
        UserError: there is none; the message gives the nearest name.
    """
    if name in ALIASES or name in RECIPES:
        return replace(RECIPES[ALIASES[name]].make(), name=name) if name in ALIASES else RECIPES[name].make()
    if name.endswith(".py"):
        raise UserError(f"{name} is a file: give FILE.py:NAME, such as {name}:recipe")
    found = import_object(name) if ":" in name else entry_point(GROUP, name)
    if found is None:
        raise UserError(
            f"unknown recipe {name!r}: {did_you_mean(name, RECIPES)}`zoo-train recipes` lists all; your own is "
            "MODULE:NAME"
        )
    recipe = found() if callable(found) and not isinstance(found, type) else found
    if not isinstance(recipe, Recipe):
        raise UserError(f"{name} is no recipe: it must be a training.Recipe, or a function that returns one")
    return recipe
