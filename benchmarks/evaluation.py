"""Time and memory of evaluation against the goals: kNN, the l2 path of the linear protocol, the learning-rate sweep.

    python benchmarks/evaluation.py --json benchmarks/results/evaluation.json

Each part runs in a process of its own, whose peak memory is reported. Features are random with class structure; only
``sweep`` reads images, the photographs of examples/ over and over.

- ``knn``: ``--queries`` against ``--bank`` x ``--dim``, 200 neighbours and the vote. Goal: at most 1.5 times the
  matrix product of the same blocks.
- ``path``: ``zoo evaluate linear`` without the encoder: 45 values of l2 on ``--images`` x ``--dim`` with ``--classes``,
  the choice and the final fit. Goal: under 30 minutes and 8 GiB on two cores.
- ``sweep``: ``zoo evaluate linear-sgd`` with five learning rates against one, with images and encoder. Goal: at most
  1.3 times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

GOALS = {
    "knn": {"times_the_matrix_product": 1.5},
    "path": {"minutes": 30, "peak_gib": 8},
    "sweep": {"times_one_head": 1.3},
}
PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


def features(count: int, dim: int, classes: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return rectified random features and labels; the class centres are so close that no classifier is perfect."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    centres = np.random.Generator(np.random.Philox(key=[0, 0])).standard_normal((classes, dim), np.float32)
    labels = rng.integers(0, classes, count)
    out = rng.standard_normal((count, dim), np.float32)
    for start in range(0, count, 8192):
        rows = slice(start, start + 8192)
        out[rows] += 0.12 * centres[labels[rows]]
    return np.maximum(out, 0, out=out), labels


def knn(args: argparse.Namespace) -> dict[str, Any]:
    from zoo.evaluate.frozen import knn as protocol

    bank, labels = features(args.bank, args.dim, args.classes, 0)
    queries, _ = features(args.queries, args.dim, args.classes, 1)
    answers = torch.from_numpy(labels)
    block, at_once = protocol._BANK_BLOCK, protocol._QUERY_BLOCK
    q, b = torch.from_numpy(queries), torch.from_numpy(bank)

    def product() -> None:
        out = torch.empty(at_once * block)
        for start in range(0, len(b), block):
            part = b[start : start + block]
            for first in range(0, len(q), at_once):
                here = q[first : first + at_once]
                torch.mm(here, part.T, out=out[: len(here) * len(part)].view(len(here), len(part)))

    ours = in_turns({"zoo": lambda: protocol.predict(bank, answers, queries, k=200), "product": product}, args.rounds)
    ratio = ours["zoo"] / ours["product"]
    return {"seconds": ours, "times_the_matrix_product": round(ratio, 3), "size": [args.queries, args.bank, args.dim]}


def path(args: argparse.Namespace) -> dict[str, Any]:
    from zoo.evaluate.frozen import linear

    train, labels = features(args.images, args.dim, args.classes, 0)
    test, truth = features(2000, args.dim, args.classes, 1)
    started = time.perf_counter()
    fit = linear.fit_predict(train, labels, test, classes=args.classes)
    minutes = (time.perf_counter() - started) / 60
    return {
        "minutes": round(minutes, 3),
        "values": len(linear.L2),
        "values_stopped_by_the_cap": fit.capped,
        "chosen": fit.chosen,
        "accuracy": round(100 * float((fit.predictions == truth).mean()), 2),
        "size": [args.images, args.dim, args.classes],
    }


def sweep(args: argparse.Namespace) -> dict[str, Any]:
    from zoo.evaluate.run import evaluate

    photos = sorted(PHOTOS.glob("*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SIAMESE_ZOO_CACHE"] = f"{folder}/cache"
        for n in range(args.sweep_images):
            for split in ("train", "test") if n < 20 else ("train",):
                target = Path(folder) / "data" / split / f"c{n % 10}" / f"{n}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(photos[n % len(photos)].read_bytes())

        def run(lr: str) -> Callable[[], object]:
            settings = {"lr": lr, "epochs": "1", "batch": str(args.sweep_batch)}
            return lambda: evaluate("linear-sgd", args.sweep_model, Path(folder) / "data", settings=settings)

        run("0.2")()  # caches the test features
        seconds = in_turns({"one head": run("0.2"), "sweep": run("0.4,0.3,0.2,0.1,0.05")}, args.rounds)
    ratio = seconds["sweep"] / seconds["one head"]
    return {
        "seconds": seconds,
        "times_one_head": round(ratio, 3),
        "model": args.sweep_model,
        "size": [args.sweep_images, args.sweep_batch],
        "heads": {"one head": 1, "sweep": 10},
    }


def in_turns(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each contender; they take turns, so that a busy minute hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(times), 3) for name, times in taken.items()}


PARTS = {"knn": knn, "path": path, "sweep": sweep}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: all")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--bank", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--sweep-images", type=int, default=512)
    parser.add_argument("--sweep-batch", type=int, default=256)
    parser.add_argument("--sweep-model", default="byol_r50.random")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.part:
        found = PARTS[args.part](args)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
        print(json.dumps(found | {"peak_gib": round(peak, 3), "threads": torch.get_num_threads()}))
        return
    results: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }
    for part in args.only:
        command = [sys.executable, __file__, "--part", part, *sys.argv[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        found["goal"] = GOALS[part]
        found["met"] = all(found[key] <= limit for key, limit in GOALS[part].items())
        results[part] = found
        print(part, json.dumps(found), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
