"""Where the time of a training step goes on a CPU, in fp32 and under bf16 autocast, by kind of work.

    python benchmarks/autocast_profile.py --json benchmarks/results/autocast_cpu.json

A ResNet-18 of SimCLR at 64 pixels, forward, backward and LARS, by torch's profiler (its own time of each operator,
summed over the threads' callers), in turn: fp32, bf16, as often as there are rounds; the median round counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from cpu import facts
from torch.profiler import ProfilerActivity, profile

from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder
from zoo.numerics.lars import LARS

KINDS = {
    "convolutions": ("conv", "mkldnn"),
    "batch norm": ("batch_norm",),
    "casts and copies": ("copy_", "_to_copy", "aten::to", "contiguous", "clone"),
    "matrix products": ("addmm", "aten::mm", "bmm", "matmul"),
    "optimiser": ("foreach", "linalg_vector_norm"),
}


def kind_of(name: str) -> str:
    """Return the kind of work of an operator."""
    return next(
        (kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "elementwise and others"
    )


def measure(precision: str, size: int, batch: int) -> dict[str, Any]:
    """Return milliseconds of one step by kind of work, after one to warm up."""
    torch.manual_seed(0)
    encoder = build_encoder(ARCHITECTURES["r18"]).train().to(memory_format=torch.channels_last)
    optimiser = LARS(encoder.parameters(), lr=0.1, weight_decay=1e-6)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = encoder(images).float().pow(2).mean()
        loss.backward()
        optimiser.step()

    step()
    started = time.perf_counter()
    step()
    seconds = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    found = dict.fromkeys([*KINDS, "elementwise and others"], 0.0)
    for event in profiled.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1000
    return {"milliseconds": found, "all": sum(found.values()), "without_profiler": seconds * 1000}


def main() -> None:
    """Measure in turn, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of a view, pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    rounds: dict[str, list[dict[str, Any]]] = {"fp32": [], "bf16": []}
    for _ in range(arguments.rounds):
        for precision, found in rounds.items():
            found.append(measure(precision, arguments.size, arguments.batch))
    # The median of each kind: other work on the machine strikes one round and not another.
    medians: dict[str, Any] = {}
    for precision, found in rounds.items():
        by_kind = {
            kind: round(statistics.median(one["milliseconds"][kind] for one in found), 2)
            for kind in found[0]["milliseconds"]
        }
        alone = statistics.median(one["without_profiler"] for one in found)
        medians[precision] = {
            "milliseconds": by_kind,
            "all": round(sum(by_kind.values()), 2),
            "without_profiler": round(alone, 2),
        }
    contents = {
        "command": " ".join(["benchmarks/autocast_profile.py", *sys.argv[1:]]),
        "cpu": facts(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "size": arguments.size,
        "batch": arguments.batch,
        **medians,
    }
    print(json.dumps(contents, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
