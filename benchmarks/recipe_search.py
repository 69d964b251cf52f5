"""Search settings of the small recipes, with the same budget for every method.

    python benchmarks/recipe_search.py --data DATA --out OUT --json FILE [METHOD ...]

MoCo v1 takes the setting of MoCo v2, whose code it runs. The supervised baseline is not searched.

Each method has four candidates: its recipe, a third and three times its learning rate, and its recipe with the other
initialisation of the residual blocks (``zero_init_residual``), which decides where a short run begins. Every candidate
sees the same images as often as the others (``zoo-train sweep``). The score is kNN on images that none was trained on:
DATA holds training images only, a fifth of each class is held out, and the test images stay unseen.

The default budget is one epoch of 25 000 images, 390 steps. In shorter runs BYOL and SimSiam still lie below random
weights, so that a search among them would find the setting that changes the weights least; so do 390 steps of 5000
images, seen five times.

A setting is called clear where it is better than the recipe's own by more than twice the standard error of the
difference (binomial, held-out images alone) in this search, and again with another seed. Finished runs that OUT holds
are read, and the same command continues a search that was killed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from training.ablations.run import sample
from training.launch import launch_sweep
from training.methods import build_method
from training.methods.find import METHODS as TRAINED
from training.monitoring.collapse import held_out_knn
from training.recipes.config import Recipe, override
from training.recipes.table import find
from training.sweeps.result import SweepResult
from zoo.datasets.labelled import training_splits

SUFFIX = "_r10_cifar10_3ep"
METHODS = [name for name in TRAINED if name != "supervised"]


def sweeps(recipe: Recipe) -> list[str]:
    """The values of two fields, one after the other, as ``zoo-train sweep --over`` takes them."""
    own = recipe.optim.lr
    rates = ",".join(f"{rate:.3g}" for rate in (own / 3, own, 3 * own))
    return [f"optim.lr={rates}", f"zero_init_residual={str(not recipe.zero_init_residual).lower()}"]


def search(method: str, args: argparse.Namespace) -> dict[str, object]:
    """Return all trials of a method, the untrained network's score, and what is clear."""
    recipe = find(method + SUFFIX)
    results = [run(recipe, [over], args, args.out / method, seed=0) for over in sweeps(recipe)]
    trials = [trial for result in results for trial in result["rungs"][-1]["trials"]]
    images = int(results[0]["data"][1][1])
    own = next(trial for trial in trials if override(recipe, trial["settings"]) == recipe)
    best = max(trials, key=lambda trial: trial["knn"])
    gain = best["knn"] - own["knn"]
    found: dict[str, object] = {
        "recipe": recipe.name,
        "over": sweeps(recipe),
        "set": args.set,
        "epochs": args.epochs,
        "images": args.images,
        "held_out": images,
        "untrained": untrained(recipe, args),
        "own": own["settings"],
        "own_knn": own["knn"],
        "best": best["settings"],
        "best_knn": best["knn"],
        "gain": round(gain, 2),
        "twice_the_error": round(2 * error(best["knn"], own["knn"], images), 2),
        "trials": [
            {name: trial[name] for name in ("settings", "knn", "interval", "collapsed", "images_seen", "minutes")}
            for trial in trials
        ],
    }
    # A candidate that won by chance does not win again with other first weights and another order of the images.
    again = {}
    if gain > 2 * error(best["knn"], own["knn"], images):
        for name, settings in (("own", own["settings"]), ("best", best["settings"])):
            single = run(recipe, settings, args, args.out / f"{method}-again", seed=1)
            again[name] = single["rungs"][-1]["trials"][0]["knn"]
        found["again_with_seed_1"] = again
    found["clear"] = bool(again) and again["best"] - again["own"] > 2 * error(again["best"], again["own"], images)
    return found


def run(recipe: Recipe, over: list[str], args: argparse.Namespace, out: Path, *, seed: int) -> SweepResult:
    sets = [f"optim.epochs={args.epochs}", f"seed={seed}", "monitor_epochs=0", *args.set]
    return launch_sweep(
        recipe.name,
        args.data,
        out / "_".join(over).replace("=", "-"),  # a folder holds one sweep, and its sweep.json
        over=over,
        overrides=sets,
        halving=None,
        images=args.images,
        in_memory=True,
        device="cpu",
        report=lambda line: print(line, flush=True),
    )


def untrained(recipe: Recipe, args: argparse.Namespace) -> float:
    """Return the kNN score of the untrained network in percent, on the same images."""
    train_data, held_out = training_splits(args.data, None)
    train_data = sample(train_data, args.images)
    method = build_method(replace(recipe, seed=0), len(train_data))
    correct, _ = held_out_knn(method, train_data, held_out, views=recipe.views, device=torch.device("cpu"))
    return round(100 * float(correct.mean()), 2)


def error(a: float, b: float, images: int) -> float:
    """The standard error in percent of the difference of two accuracies, as if measured on different images."""
    return float((a * (100 - a) / images + b * (100 - b) / images) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="field=value for all candidates")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    rows = json.loads(args.json.read_text()) if args.json.exists() else {}
    for method in args.methods:
        rows[method] = search(method, args)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
