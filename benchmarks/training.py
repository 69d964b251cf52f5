"""Speed of a training step with its views, against lightly 1.6.0 and against the step without views.

    python -m venv --system-site-packages lightly && lightly/bin/pip install --no-deps lightly==1.6.0
    lightly/bin/python benchmarks/training.py --data DATA --compile --json training.json

Inside another venv, ``--system-site-packages`` means the system's packages, not that venv's: name the venv's
site-packages in a .pth file instead.

The contenders take turns, round after round. Ours run in one process and lightly's in another, because our runs change
how the C library keeps memory (``zoo.system.malloc``).

- ``zoo``: our decoding, views and optimiser step.
- ``lightly``: its transforms, heads, loss and optimiser with torchvision's ResNet and a DataLoader, in every
  combination of workers and memory format; the fastest counts.
- ``bare``: our step on views that were made before.

Images, device, batch size, precision and head sizes are the same. Each turn starts its data again and runs a few steps
before it is timed. ``share_of_matrix_rate`` is the rate of floating-point operations in the bare step (counted by
torch) divided by the rate of one large matrix product in the same precision.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # before this folder, whose training.py is no package

import cpu
import torch
import torchvision
from lightly_steps import AUTOCAST, lightly_network, lightly_steps
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from training.data.augment import make_views
from training.data.loader import batches
from training.engine.build import new_run
from training.engine.loop import train_steps
from training.engine.state import Run
from training.methods import StepInfo, build_method
from training.recipes import table
from training.recipes.config import Recipe
from zoo.datasets.dataset import Dataset, decoded_once
from zoo.datasets.opening import open_training_data
from zoo.system.malloc import keep_freed_memory

_FOREVER = 10**9
_RECIPES = {"byol": "byol_r50_in1k_300ep", "simsiam": "simsiam_r50_in1k_100ep"}


def our_recipe(method: str, args: argparse.Namespace, compiled: bool) -> Recipe:
    """Return the published recipe with the sizes of the arguments."""
    base = table.find(_RECIPES[method])
    return replace(
        base,
        architecture=args.architecture,
        padding="symmetric",  # as lightly's network
        initialiser="timm",
        views=replace(base.views, size=args.size),
        optim=replace(base.optim, batch_size=args.batch, epochs=_FOREVER, warmup_epochs=0),
        precision=args.precision,
        compile=compiled,
        monitor_epochs=0,
        checkpoint_steps=_FOREVER,
    )


# ---------------------------------------------------------------- ours


def our_run(method: str, args: argparse.Namespace, dataset: Dataset, compiled: bool) -> Run:
    recipe = our_recipe(method, args, compiled)
    return new_run(
        recipe, dataset, Path(tempfile.mkdtemp()), torch.device(args.device), build_method(recipe, len(dataset))
    )


def bare_step(run: Run, views: list[Tensor]) -> None:
    """What a step of ``train_steps`` does to the network, on views that lie ready."""
    info = StepInfo(0, 100, 0, 0.99)
    run.method.before_step(info)
    run.optimiser.zero_grad(set_to_none=True)
    dtype = AUTOCAST[run.recipe.precision]
    with torch.autocast(run.device.type, dtype, enabled=dtype is not None):
        losses = run.forward(views, None)
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    run.method.before_update(info)
    run.optimiser.step()
    run.method.after_step(info)


def bare(run: Run, views: list[Tensor]) -> Iterator[None]:
    while True:
        bare_step(run, views)
        yield


# ---------------------------------------------------------------- measuring


def turn(steps: Iterator[object], args: argparse.Namespace) -> float:
    """Return the images per second of ``args.steps`` steps, timed after ``args.warm_up`` steps."""
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    for _ in range(args.warm_up):
        next(steps)
    wait()
    start = time.perf_counter()
    for _ in range(args.steps):
        next(steps)
    wait()
    seconds = time.perf_counter() - start
    with suppress(AttributeError):
        steps.close()  # type: ignore[attr-defined]  # ends its threads and workers before the next turn
    return args.steps * args.batch / seconds


def matrix_rate(args: argparse.Namespace) -> float:
    """Return the floating-point operations per second of one large matrix product, the best of ten."""
    cuda = args.device.startswith("cuda")
    n = 8192 if cuda else 2048
    a = torch.rand(n, n, device=args.device, dtype=AUTOCAST[args.precision] or torch.float32)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


Contenders = dict[str, Callable[[], Iterator[object]]]
_here: Contenders = {}  # of this process


def become(kind: Callable[[str, argparse.Namespace], Contenders], method: str, args: argparse.Namespace) -> None:
    """Set up the contenders of one side in this new process."""
    _here.update(kind(method, args))


def names_here() -> list[str]:
    return list(_here)


def turn_here(name: str, args: argparse.Namespace) -> float:
    return turn(_here[name](), args)


def opened(args: argparse.Namespace) -> Dataset:
    dataset = open_training_data(args.data)
    return decoded_once(dataset) if args.in_memory else dataset


def views_of(method: str, dataset: Dataset, args: argparse.Namespace) -> tuple[Any, list[Tensor]]:
    """Return a batch and its views on the device."""
    batch = next(batches(dataset, batch_size=args.batch, steps=range(1), seed=0))
    views = our_recipe(method, args, False).views
    return batch, make_views(batch.images, batch.indices, views, seed=0, epoch=0, device=torch.device(args.device))


def our_side(method: str, args: argparse.Namespace) -> Contenders:
    if args.device == "cpu":
        keep_freed_memory()  # training.engine.loop.train does the same
    dataset = opened(args)
    batch, views = views_of(method, dataset, args)
    runs = {"eager": our_run(method, args, dataset, False)}
    if args.compile:
        runs["compiled"] = our_run(method, args, dataset, True)
    contenders: Contenders = {}
    for name, run in runs.items():
        contenders[f"zoo {name}"] = partial(train_steps, run)
        contenders[f"bare {name}"] = partial(bare, run, views)
    contenders["views alone"] = lambda: views_alone(runs["eager"], batch, args)
    return contenders


def their_side(method: str, args: argparse.Namespace) -> Contenders:
    dataset = opened(args)
    contenders: Contenders = {}
    for last in (False, True):
        network, optimiser = lightly_network(method, args, last)
        for workers in args.workers:
            contenders[f"lightly workers {workers} {'channels_last' if last else 'contiguous'}"] = (
                lambda n=network, o=optimiser, w=workers, c=last: lightly_steps(  # type: ignore[misc]
                    method, args, dataset, n, o, workers=w, last=c
                )
            )
    return contenders


def measure(method: str, args: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
    """Rates of every contender in every round."""
    run, views = our_run(method, args, dataset, False), views_of(method, dataset, args)[1]
    with FlopCounterMode(display=False) as counter:
        bare_step(run, views)
    del run, views
    rates: dict[str, list[float]] = {}
    matrix = []
    with ExitStack() as processes:
        sides = [
            processes.enter_context(ProcessPoolExecutor(1, get_context("spawn"), become, (side, method, args)))
            for side in ([our_side] if args.no_lightly else [our_side, their_side])
        ]
        contenders = [(side, name) for side in sides for name in side.submit(names_here).result()]
        for number in range(args.rounds):
            matrix.append(matrix_rate(args))
            for side, name in contenders:
                rates.setdefault(name, []).append(side.submit(turn_here, name, args).result())
                print(f"{method}, round {number + 1}, {name}: {rates[name][-1]:.1f} images/s", flush=True)
    return summary(rates, counter.get_total_flops() / args.batch, statistics.median(matrix))


def views_alone(run: Run, batch: Any, args: argparse.Namespace) -> Iterator[None]:
    for epoch in itertools.count():
        make_views(batch.images, batch.indices, run.recipe.views, seed=0, epoch=epoch, device=run.device)
        yield


def summary(rates: dict[str, list[float]], flops_per_image: float, matrix: float) -> dict[str, Any]:
    """Return the best setting of each kind by its median rate, and their ratios."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = {
        kind: max((n for n in medians if n.startswith(kind)), key=lambda n: medians[n])
        for kind in ("zoo", "lightly", "bare")
        if any(n.startswith(kind) for n in medians)
    }
    bare_rate = medians[best["bare"]]
    result: dict[str, Any] = {
        "best": {kind: {"setting": name, "images_per_second": round(medians[name], 2)} for kind, name in best.items()},
        "views_share_of_step": round(1 - medians[best["zoo"]] / bare_rate, 3),
        "views_images_per_second": round(medians["views alone"], 1),
        "gflop_per_image": round(flops_per_image / 1e9, 3),
        "matrix_gflops": round(matrix / 1e9, 1),
        "share_of_matrix_rate": round(bare_rate * flops_per_image / matrix, 3),
    }
    if "lightly" in best:
        result["zoo_over_lightly"] = round(medians[best["zoo"]] / medians[best["lightly"]], 3)
    return result | {"rates": rates}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="images: any source of `zoo-train run --data`")
    parser.add_argument("--in-memory", action="store_true", help="decode the images once, for both sides")
    parser.add_argument("--methods", nargs="+", choices=list(_RECIPES), default=list(_RECIPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--architecture", choices=["r18", "r50"], default="r18")
    parser.add_argument("--size", type=int, default=64, help="side of a view, pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=list(AUTOCAST), default="fp32")
    parser.add_argument("--compile", action="store_true", help="measure our compiled step, too")
    parser.add_argument("--compile-lightly", action="store_true", help="compile lightly's network")
    parser.add_argument("--no-lightly", action="store_true", help="leave lightly out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each turn")
    parser.add_argument("--warm-up", type=int, default=3, help="untimed steps at the start of each turn")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="workers of lightly's DataLoader")
    parser.add_argument("--json", type=Path, default=None, help="where to write the result")
    args = parser.parse_args()
    dataset = open_training_data(args.data)
    measured = {method: measure(method, args, dataset) for method in args.methods}
    result = {
        "methods": measured,
        "settings": {k: v for k, v in vars(args).items() if k not in ("json", "data")},
        "data": {"name": dataset.name, "images": len(dataset)},
        "machine": cpu.facts(),
        "torch_threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "device": torch.cuda.get_device_name(0) if args.device.startswith("cuda") else "cpu",
    }
    shown = {m: {k: v for k, v in facts.items() if k != "rates"} for m, facts in measured.items()}
    print(json.dumps(shown, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
