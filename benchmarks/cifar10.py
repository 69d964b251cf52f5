"""Every method on CIFAR-10 at one budget: kNN, linear evaluation, time of a step, memory; lightly's beside some.

    python benchmarks/cifar10.py --data DATA --out OUT --json FILE --seeds 3
    PYTHONPATH=LIGHTLY python benchmarks/cifar10.py --data DATA --out OUT --json FILE --lightly byol simsiam simclr
    python benchmarks/cifar10.py --data DATA --out OUT --network r18 --epochs 200 --device cuda

The rows are the recipes ``NAME_NETWORK_cifar10_...`` of all methods that are registered, so a new method joins by
itself; the first lines of ``training.py`` say how to make lightly's environment. Each run is ``zoo-train run``,
``zoo-train export``, ``zoo evaluate knn`` and ``linear``. All have the same epochs (``--epochs``), network, batch and
size of views; nothing else is equalised. The row ``random`` is the untrained network. Scores are means over the seeds
with Student's 95 % interval; with one seed it is the interval over test images.

Runs that OUT or the JSON of ``--known`` hold are read, not measured again. A killed run is resumed; a failed one is
reported in the JSON and tried again by the next call. Each seed has its hardware and precision; the costs of a row are
those of its first seed's. Times are of whole steps, views included: the tenth percentile of those that were logged.
Memory is the peak of the training process, and with ``--device cuda`` the growth of the device's used memory. Compare
times on a core of its own (``taskset -c 0``, OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from training.ablations.run import interval
from training.methods.find import METHODS
from training.monitoring.hardware import hardware
from training.recipes.config import Recipe, override
from training.recipes.table import RECIPES
from zoo.hub.exported_encoder import save_encoder
from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder, encoder_state
from zoo.transforms.preprocess import Preprocessing

ROOT = Path(__file__).parents[1]
PROTOCOLS = ("knn", "linear")
LIGHTLY = ("byol", "simsiam", "simclr", "barlowtwins")  # of lightly_methods.py


@dataclass(frozen=True)
class Row:
    """One row of the table: ``recipe`` trains it; ``lightly`` names lightly's method with the recipe's sizes."""

    name: str
    recipe: str
    lightly: str = ""


def our_rows(network: str) -> list[Row]:
    """One row for each variant of a method; of several lengths the shortest recipe, as ``--epochs`` sets the length."""
    pattern = re.compile(rf"(\w+?)_{network}_cifar10_(\d+)ep(?:_\w+)?")
    found: dict[str, tuple[int, str]] = {}
    for name in RECIPES:
        if match := pattern.fullmatch(name):
            found[match[1]] = min(found.get(match[1], (sys.maxsize, "")), (int(match[2]), name))
    return [Row(name, recipe) for name, (_, recipe) in found.items()]


def without_a_recipe(rows: list[Row]) -> list[str]:
    """Registered methods that have no recipe for this network."""
    return sorted(set(METHODS) - {RECIPES[row.recipe].make().method for row in rows})


def recipe_of(row: Row, args: argparse.Namespace) -> Recipe:
    recipe = override(RECIPES[row.recipe].make(), args.set or [])
    return replace(recipe, optim=replace(recipe.optim, epochs=args.epochs or recipe.optim.epochs))


# ---------------------------------------------------------------- one run


def run(words: list[str | Path], device: str = "cpu") -> float:
    """Run a command; return the peak of its memory in 10**6 bytes. Raises RuntimeError with its last line."""
    child = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said: list[str] = []

    def read() -> None:
        for line in child.stderr or ():
            sys.stderr.write(line)
            said[:] = [*said[-4:], line.strip()]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    on_device = DeviceMemory() if device.startswith("cuda") else None
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    child.stderr.close()
    peak = on_device.stop() if on_device else used.ru_maxrss * 1024 / 1e6
    if child.returncode:
        raise RuntimeError(next((line for line in reversed(said) if line), f"exit code {child.returncode}"))
    return peak


class DeviceMemory:
    """The largest growth of a GPU's used memory, ten times a second; nothing else should use it."""

    def __init__(self) -> None:
        self._before, self._peak, self._done = self._used(), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return self._peak / 1e6

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self._peak = max(self._peak, self._used() - self._before)

    @staticmethod
    def _used() -> float:
        free, total = torch.cuda.mem_get_info()
        return float(total - free)


def train_ours(row: Row, seed: int, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Train and export; return minutes, milliseconds of a step and the peak of memory."""
    recipe, runs = recipe_of(row, args), folder / "run"
    resume = ["--resume"] if (runs / "last.json").exists() else []
    sets = [f"seed={seed}", f"optim.epochs={recipe.optim.epochs}", *(args.set or [])]
    words = ["-m", "training", "run", row.recipe, "--data", args.data, "--out", runs, "--device", args.device, *resume]
    peak = run([*words, *(part for one in sets for part in ("--set", one))], args.device)
    size = str(recipe.views.size)
    export = ["--out", folder / "encoder.safetensors", "--input-size", size, "--resize", size]
    run(["-m", "training", "export", runs, *export])
    lines = [json.loads(line) for line in (runs / "log.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    cost = {"minutes": lines[-1]["seconds"] / 60, "peak_mb": peak}
    times = [recipe.optim.batch_size / rate for rate in rates]
    return cost | ({"step_ms": 1000 * unhindered(times)} if times else {})


def unhindered(times: list[float]) -> float:
    """The tenth percentile: other work on the core makes steps slower, never faster."""
    return sorted(times)[len(times) // 10]


def train_lightly(row: Row, seed: int, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Train lightly's method in a process of its own; it cannot be resumed."""
    script = Path(__file__).with_name("lightly_methods.py")
    recipe = recipe_of(row, args)
    words = [script, row.lightly, row.recipe, "--data", args.data, "--out", folder, "--device", args.device]
    more = ["--seed", str(seed), "--epochs", str(recipe.optim.epochs), "--workers", str(args.workers)]
    precision = ["--bf16"] if recipe.precision == "bf16" else []
    peak = run([*words, *more, *precision], args.device)
    cost: dict[str, float] = json.loads((folder / "cost.json").read_text())
    return cost | {"peak_mb": peak}


def save_random(row: Row, seed: int, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    recipe = recipe_of(row, args)
    torch.manual_seed(seed)
    architecture = replace(ARCHITECTURES[recipe.architecture], stem=recipe.stem)
    save_for_evaluation(build_encoder(architecture), recipe, "random weights", folder)
    return {"minutes": 0.0}


def save_for_evaluation(encoder: torch.nn.Module, recipe: Recipe, source: str, folder: Path) -> None:
    """Save an encoder so that ``zoo evaluate`` can load it."""
    metadata = {
        "architecture": {"name": recipe.architecture, "stem": recipe.stem},
        "method": recipe.method,
        "preprocessing": Preprocessing(recipe.views.size, recipe.views.size).to_json(),
        "licence": "MIT",
        "source": source,
    }
    save_encoder(folder / "encoder.safetensors", encoder_state(encoder), metadata)


def measure(row: Row, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one seed of a row, or read it if ``--known`` or OUT hold it."""
    for found in known_seeds(args.known, row):
        if found["seed"] == seed and "error" not in found:
            return found
    folder: Path = args.out / row.name.replace(" ", "_") / f"seed{seed}"
    result = folder / "row.json"
    if result.exists():
        said: dict[str, Any] = json.loads(result.read_text())
        return said
    folder.mkdir(parents=True, exist_ok=True)
    trained = folder / "trained.json"
    try:
        if not trained.exists():
            train = train_lightly if row.lightly else save_random if row.name == "random" else train_ours
            cost = {key: round(value, 2) for key, value in train(row, seed, folder, args).items()}
            write(trained, cost)
        on = {"hardware": hardware(torch.device(args.device)), "precision": recipe_of(row, args).precision}
        found: dict[str, Any] = {"seed": seed, **on, **json.loads(trained.read_text())}
        for protocol in PROTOCOLS:
            out = folder / f"{protocol}.json"
            device = () if args.device == "cpu" else ("--device", args.device)
            model = ("--model", folder / "encoder.safetensors", "--data", args.data, "--out", out)
            run(["-m", "zoo", "evaluate", protocol, *model, *device])
            scored = json.loads(out.read_text())
            found[protocol] = {"score": scored["score"], "interval_95": scored["interval_95"]}
    except RuntimeError as error:  # the other rows go on, and the next call tries again
        return {"seed": seed, "error": str(error)[:300]}
    write(result, found)
    return found


def write(path: Path, content: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


# ---------------------------------------------------------------- the table


def known_seeds(path: Path | None, row: Row) -> list[dict[str, Any]]:
    """The seeds of a row in an earlier JSON of this script."""
    rows = json.loads(path.read_text())["rows"] if path else []
    return [seed for earlier in rows if earlier["name"] == row.name for seed in earlier["seeds"]]


def summary(row: Row, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds that were measured; costs are medians over those of the first seed's hardware."""
    done = [seed for seed in seeds if "error" not in seed]
    found: dict[str, Any] = {"name": row.name, "recipe": row.recipe, "seeds": seeds}
    if not done:
        return found
    for protocol in PROTOCOLS:
        scores = [seed[protocol]["score"] for seed in done]
        low, high = interval(scores) or done[0][protocol]["interval_95"]
        bounds = [max(0.0, low), min(100.0, high)]
        found[protocol] = {"score": round(statistics.mean(scores), 2), "interval_95": bounds}
    for key in ("minutes", "step_ms", "peak_mb"):
        if values := [seed[key] for seed in done if key in seed and alike(seed, done[0])]:
            found[key] = round(statistics.median(values), 2)
    return found


def alike(seed: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(seed.get(key) == other.get(key) for key in ("hardware", "precision"))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown; scores in percent."""

    def shown(score: dict[str, Any]) -> str:
        low, high = score["interval_95"]
        return f"{score['score']:.1f} ({low:.1f}-{high:.1f})"

    def number(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:.0f}" if row.get(key) else "-"

    lines = ["| | seeds | kNN | linear | ms a step | MB | minutes |", "|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        done = [seed for seed in row["seeds"] if "error" not in seed]
        if not done:
            lines.append(f"| {row['name']} | 0 | {row['seeds'][0]['error']} | | | | |")
            continue
        cells = [row["name"], str(len(done)), shown(row["knn"]), shown(row["linear"])]
        cells += [number(row, key) for key in ("step_ms", "peak_mb", "minutes")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure seed by seed, so that an interrupted call has all rows; print the table, write JSON after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10 with train and test, as for `zoo evaluate`")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and rows")
    parser.add_argument("--network", default="r10", help="NETWORK of the recipes NAME_NETWORK_cifar10_...")
    parser.add_argument("--epochs", type=int, default=None, help="of all rows; default: the recipes' own")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=None, help="names of our rows; default: all, and random")
    parser.add_argument("--lightly", nargs="*", default=[], help="lightly's methods beside: byol simsiam ...")
    parser.add_argument("--set", action="append", help="field=value for our recipes, to rehearse")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="workers of lightly's DataLoader")
    parser.add_argument("--known", type=Path, default=None, help="JSON of an earlier call whose seeds are read")
    parser.add_argument("--json", type=Path, default=None, help="where to write the result")
    args = parser.parse_args()
    args.data, args.out = str(Path(args.data).resolve()), args.out.resolve()
    # Choose the rows.
    every = our_rows(args.network)
    if not every:
        parser.error(
            f"no recipe NAME_{args.network}_cifar10_...: `zoo-train recipes {args.network}_cifar10` lists them"
        )
    by_name = {"random": Row("random", every[0].recipe)} | {row.name: row for row in every}
    if unknown := sorted({*(args.rows or ()), *args.lightly} - set(by_name)):
        parser.error(f"no row {', '.join(unknown)}: choose from {', '.join(by_name)}")
    rows = [by_name[name] for name in args.rows or by_name]
    if other := sorted(set(args.lightly) - set(LIGHTLY)):
        parser.error(f"no lightly {', '.join(other)}: choose from {', '.join(LIGHTLY)}")
    rows += [Row(f"lightly {name}", by_name[name].recipe, lightly=name) for name in args.lightly]
    # Every row's first seed comes before any row's second.
    measured: dict[str, list[dict[str, Any]]] = {row.name: [] for row in rows}
    for seed in range(args.seeds):
        for row in rows:
            measured[row.name].append(measure(row, seed, args))
            known = [summary(row, measured[row.name]) for row in rows if measured[row.name]]
            if args.json is not None:
                write(args.json, document(known, rows, every, args))
    print(table(known))


def document(
    known: list[dict[str, Any]], rows: list[Row], every: list[Row], args: argparse.Namespace
) -> dict[str, Any]:
    """The JSON: the rows, and what all of them share."""
    recipes = [recipe_of(row, args) for row in rows]

    def shared(values: set[int]) -> int | list[int]:
        return values.pop() if len(values) == 1 else sorted(values)

    return {
        "rows": known,
        "without_a_recipe": without_a_recipe(every),
        "data": Path(args.data).name,
        "network": args.network,
        "epochs": shared({recipe.optim.epochs for recipe in recipes}),
        "batch": shared({recipe.optim.batch_size for recipe in recipes}),
        "views": shared({recipe.views.size for recipe in recipes}),
        "set": [one for one in args.set or [] if not one.startswith("precision=")],  # each seed has its own
        "device": torch.cuda.get_device_name(0) if args.device.startswith("cuda") else "cpu",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"torch": torch.__version__},
    }


if __name__ == "__main__":
    main()
