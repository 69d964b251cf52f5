"""All methods on CIFAR-10, and lightly's BYOL with the same epochs: kNN, linear evaluation, minutes of training.

    LIGHTLY/bin/python benchmarks/cifar10.py --data DATA --out OUT --epochs 3 --json FILE
    LIGHTLY/bin/python benchmarks/cifar10.py --data DATA --out OUT --network r18 --epochs 200 --device cuda

``training.py`` says how to make lightly's environment. Each row of ours is ``zoo-train run
METHOD_NETWORK_cifar10_{EPOCHS}ep``, ``zoo-train export``, ``zoo evaluate knn`` and ``linear``. The row ``lightly byol``
is lightly's CIFAR-10 benchmark: its heads, loss, transforms, DataLoader and optimiser with their values (SGD with lr
.06 for a batch of 128, cosine by epoch, m = .99), with our network, batch size and view size. The row ``random`` is the
untrained network. Both are evaluated by the same commands.

Rows that OUT already holds are read, not measured again; a killed run is resumed. To compare minutes on a CPU, pin the
command to one core (``taskset -c 0``, OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from training.recipes.config import Recipe
from training.recipes.table import find
from zoo.datasets.dataset import Dataset, open_training_data
from zoo.hub.weights import save_encoder
from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder, encoder_state
from zoo.transforms.preprocess import Preprocessing

METHODS = ("byol", "simsiam", "simclr", "mocov2", "swav")


def recipe_of(method: str, args: argparse.Namespace) -> Recipe:
    return find(f"{method}_{args.network}_cifar10_{args.epochs}ep")


def command(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True, cwd=Path(__file__).parents[1])


# ---------------------------------------------------------------- encoders, and the minutes of their training


def ours(method: str, folder: Path, args: argparse.Namespace) -> tuple[Path, float]:
    """Train and export one of our methods; return the encoder's file and the minutes, monitors included."""
    run = folder / "run"
    resume = ["--resume"] if (run / "last.json").exists() else []
    name = recipe_of(method, args).name
    command("training", "run", name, "--data", args.data, "--out", run, "--device", args.device, *resume)
    encoder = folder / "encoder.safetensors"
    size = str(recipe_of(method, args).views.size)
    command("training", "export", run, "--out", encoder, "--input-size", size, "--resize", size)
    seconds = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["seconds"]
    return encoder, seconds / 60


def new_encoder(recipe: Recipe) -> tuple[nn.Module, int]:
    """Return the recipe's untrained network and its number of features."""
    torch.manual_seed(recipe.seed)
    architecture = replace(ARCHITECTURES[recipe.architecture], stem=recipe.stem)
    return build_encoder(architecture, zero_init_residual=False), architecture.num_features


def saved(encoder: nn.Module, recipe: Recipe, source: str, folder: Path) -> Path:
    """Save an encoder so that ``zoo evaluate`` can load it."""
    metadata = {
        "architecture": {"name": recipe.architecture, "stem": recipe.stem},
        "method": recipe.method,
        "preprocessing": Preprocessing(recipe.views.size, recipe.views.size).to_json(),
        "licence": "MIT",
        "source": source,
    }
    save_encoder(folder / "encoder.safetensors", encoder_state(encoder), metadata)
    return folder / "encoder.safetensors"


def untrained(folder: Path, args: argparse.Namespace) -> tuple[Path, float]:
    recipe = recipe_of("byol", args)
    return saved(new_encoder(recipe)[0], recipe, "random weights", folder), 0.0


class Pairs(TorchDataset[Any]):
    """Applies lightly's transform in the DataLoader's worker, as LightlyDataset does."""

    def __init__(self, dataset: Dataset, transform: Any) -> None:
        self._dataset, self._transform = dataset, transform

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._transform(self._dataset.image(index))


def lightly_byol(folder: Path, args: argparse.Namespace) -> tuple[Path, float]:
    """Train lightly's BYOL as its benchmark does; it cannot be resumed."""
    import copy

    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.transforms import BYOLTransform
    from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform

    recipe = recipe_of("byol", args)
    batch, device = recipe.optim.batch_size, torch.device(args.device)
    encoder, dim = new_encoder(recipe)
    online = nn.Sequential(encoder, BYOLProjectionHead(dim, 1024, 256)).to(device)
    predictor, target = BYOLPredictionHead(256, 1024, 256).to(device), copy.deepcopy(online).requires_grad_(False)
    criterion = NegativeCosineSimilarity()
    optimiser = torch.optim.SGD(
        [*online.parameters(), *predictor.parameters()], lr=0.06 * batch / 128, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.epochs)
    size = recipe.views.size
    transform = BYOLTransform(
        BYOLView1Transform(input_size=size, gaussian_blur=0.0), BYOLView2Transform(input_size=size, gaussian_blur=0.0)
    )
    data = Pairs(open_training_data(args.data), transform)
    cuda = device.type == "cuda"
    loader = DataLoader(
        data, batch, shuffle=True, drop_last=True, num_workers=args.workers, persistent_workers=args.workers > 0
    )
    start = time.perf_counter()
    for epoch in range(args.epochs):
        for step, views in enumerate(loader):
            update_momentum(online, target, m=0.99)
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                z0, z1 = (online(x.to(device, non_blocking=True)) for x in views)
                with torch.no_grad():
                    t0, t1 = (target(x.to(device, non_blocking=True)) for x in views)
                loss = 0.5 * (criterion(predictor(z0), t1) + criterion(predictor(z1), t0))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            if step % 100 == 0:
                print(f"lightly byol: epoch {epoch + 1}, step {step}, loss {loss.item():.4f}", flush=True)
        schedule.step()
    minutes = (time.perf_counter() - start) / 60
    return saved(encoder.cpu(), recipe, "lightly's BYOL", folder), minutes


# ---------------------------------------------------------------- rows


def row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one row, or read it if OUT holds it."""
    folder = args.out / name.replace(" ", "_")
    result = folder / "row.json"
    if result.exists():
        said: dict[str, Any] = json.loads(result.read_text())
        return said
    folder.mkdir(parents=True, exist_ok=True)
    if name == "random":
        model, minutes = untrained(folder, args)
    elif name == "lightly byol":
        model, minutes = lightly_byol(folder, args)
    else:
        model, minutes = ours(name, folder, args)
    found: dict[str, Any] = {"name": name, "minutes": round(minutes, 2)}
    for protocol in ("knn", "linear"):
        out = folder / f"{protocol}.json"
        device = () if args.device == "cpu" else ("--device", args.device)
        command("zoo", "evaluate", protocol, "--model", model, "--data", args.data, "--out", out, *device)
        said = json.loads(out.read_text())
        found[protocol] = {"score": said["score"], "interval_95": said["interval_95"]}
    result.write_text(json.dumps(found))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    def shown(score: dict[str, Any]) -> str:
        low, high = score["interval_95"]
        return f"{score['score']:.1f} ({low:.1f}-{high:.1f})"

    lines = ["| | kNN | linear | minutes |", "|---|---:|---:|---:|"]
    lines += [f"| {r['name']} | {shown(r['knn'])} | {shown(r['linear'])} | {r['minutes']:.1f} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    """Train, evaluate, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10 with train and test, as for `zoo evaluate`")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and rows")
    parser.add_argument("--network", default="r10", help="NETWORK of the recipes METHOD_NETWORK_cifar10_EPOCHSep")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=["random", *METHODS, "lightly byol"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="workers of lightly's DataLoader")
    parser.add_argument("--json", type=Path, default=None, help="where to write the result")
    args = parser.parse_args()
    args.data, args.out = str(Path(args.data).resolve()), args.out.resolve()
    rows = [row(name, args) for name in args.rows]
    print(table(rows))
    if args.json is not None:
        result = {
            "rows": rows,
            "epochs": args.epochs,
            "data": Path(args.data).name,
            "batch": recipe_of("byol", args).optim.batch_size,
            "network": args.network,
            "views": recipe_of("byol", args).views.size,
            "device": torch.cuda.get_device_name(0) if args.device.startswith("cuda") else "cpu",
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
