"""Does each small recipe learn? kNN accuracy on training images, after a short run and of the untrained network.

    python benchmarks/small_recipes.py --data DATA --out OUT --images 5000 --epochs 4 --json FILE [METHOD ...]

DATA is CIFAR-10 or a copy of it. Of its first IMAGES images four fifths classify the others, as the training monitor
does it (k = 200), with the features of the encoder. No method sees a label. Every method has the same images and
epochs, its recipe METHOD_r10_cifar10_3ep otherwise unchanged, and one seed: the difference to the untrained network of
the same architecture says whether it learns, and not which method is better. Rows that FILE holds are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from training.engine.build import new_run
from training.engine.loop import train
from training.methods import METHODS, build_method
from training.monitoring.collapse import measure_outputs
from training.recipes.table import find
from zoo.datasets.dataset import Dataset
from zoo.datasets.opening import open_training_data

CPU = torch.device("cpu")


def measure(method: str, data: Dataset, args: argparse.Namespace) -> dict[str, object]:
    """Train one recipe; return both accuracies in percent, the spread of the outputs, and minutes."""
    recipe = find(f"{method}_r10_cifar10_3ep")
    recipe = replace(recipe, monitor_epochs=0, optim=replace(recipe.optim, epochs=args.epochs))
    network = build_method(recipe, len(data)).to(memory_format=torch.channels_last)
    before = measure_outputs(network, data, views=recipe.views, device=CPU)
    started = time.perf_counter()
    train(recipe, data, args.out / method, device="cpu", resume=any((args.out / method).glob("checkpoint-*.pt")))
    minutes = (time.perf_counter() - started) / 60
    run = new_run(recipe, data, args.out / method, CPU, network)
    last = max((args.out / method).glob("checkpoint-*.pt"))
    run.method.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["method"])
    after = measure_outputs(run.method, data, views=recipe.views, device=CPU)
    values = {"knn": after.knn, "untrained": before.knn, "spread": after.spread, "rank": after.effective_rank}
    return {"recipe": recipe.name, **{name: round(float(value or 0), 2) for name, value in values.items()}} | {
        "minutes": round(minutes, 1)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=[name for name in METHODS if name != "supervised"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    data = open_training_data(args.data).subset(np.arange(args.images))
    found = json.loads(args.json.read_text()) if args.json.exists() else {"images": args.images, "epochs": args.epochs}
    rows = found.setdefault("rows", {})
    for method in args.methods:
        if method not in rows:
            rows[method] = measure(method, data, args)
            args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
