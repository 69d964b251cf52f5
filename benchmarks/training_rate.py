"""The rates by which `zoo-train recipes --for-data` and `zoo-train run` estimate hours: `training/engine/rates.json`.

    python benchmarks/training_rate.py
    python benchmarks/training_rate.py --measure cuda

The first collects what other commands have measured on quiet machines: a whole run (`zoo-train summary`) and the steps
of `training.py`. The second adds recipes that are trained here for some steps, on made JPEG files in memory. The
fastest of the rounds counts, because other work on a machine only slows it down.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # before this folder, whose training.py is no package

from training.engine.cost import RATES, Rate, measured_rates, operations
from training.planning.measure import measure
from training.recipes.config import from_json, override
from training.recipes.table import find
from zoo.system.atomic_files import atomic_write_text

ROOT = Path(__file__).parents[1]
RUN = ROOT / "model_cards" / "results" / "simclr_r18_mini.tin32" / "training.json"
STEPS = {  # file of `training.py` -> what it changes in a recipe
    "training_r18_cpu": ["architecture=r18", "views.size=64", "precision=fp32"],
    "training_r50_cpu": ["precision=fp32"],
}
RECIPES = {"byol": "byol_r50_in1k_300ep", "simsiam": "simsiam_r50_in1k_100ep"}
MEASURED: list[tuple[str, list[str], int]] = [  # recipe, settings, side of the images
    ("byol_r18_cifar10_200ep_lightly", [], 32),
    ("byol_r18_tin_200ep_lightly", [], 64),
    ("simsiam_r50_in1k_100ep", ["optim.batch_size=256"], 256),
]


def collected() -> list[Rate]:
    """Return the rates of the CPU that are in the repository's results."""
    run = json.loads(RUN.read_text())
    recipe = from_json(run["recipe"])
    per_second = run["images_seen"] / (60 * run["minutes"])
    found = [Rate(run["hardware"], "cpu", recipe.precision, recipe.name, operations(recipe), round(per_second, 3))]
    for name, sets in STEPS.items():
        result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for method, facts in result["methods"].items():
            recipe = override(find(RECIPES[method]), sets)
            hardware, words = f"{result['cores']} CPU cores", " ".join([RECIPES[method], *sets])
            rate = facts["best"]["zoo"]["images_per_second"]
            found.append(Rate(hardware, "cpu", "fp32", words, operations(recipe), rate))
    return found


def measured(device: str, rounds: int, steps: int) -> list[Rate]:
    """Return the best rate of each recipe on this machine."""
    best: dict[str, Rate] = {}
    for number in range(rounds):
        for name, sets, side in MEASURED:
            words = " ".join([name, *sets])
            rate = measure(override(find(name), sets), device, side=side, steps=steps, name=words)
            print(f"round {number + 1}, {words}: {rate.images_per_second:.1f} images/s", flush=True)
            if words not in best or rate.images_per_second > best[words].images_per_second:
                best[words] = rate
    return list(best.values())


def main() -> None:
    """Collect or measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", metavar="DEVICE", default=None, help="cuda, cuda:1 or cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a round")
    parser.add_argument("--json", type=Path, default=RATES)
    args = parser.parse_args()
    new = collected() if args.measure is None else measured(args.measure, args.rounds, args.steps)
    old = measured_rates(args.json) if args.json.exists() else []
    replaced = {rate.hardware for rate in new}
    rates = [*(rate for rate in old if rate.hardware not in replaced), *new]
    content = {"measured_by": "benchmarks/training_rate.py", "rates": [asdict(rate) for rate in rates]}
    atomic_write_text(args.json, json.dumps(content, indent=1) + "\n")
    print(f"{args.json}: {len(rates)} rates")


if __name__ == "__main__":
    main()
