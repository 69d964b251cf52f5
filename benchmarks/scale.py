"""Peak memory and seconds of ``zoo extract`` by the number of rows of its plan, and of ``zoo plan --parts``.

    python benchmarks/scale.py 1000000 10000000 --json benchmarks/results/scale.json

The source is a list of N paths of 46 bytes, 32 of them random, which compress worst; the images are not there, so that
a shard costs no decoding. Each measurement is a process of its own: ``first`` lists, freezes the plan and makes the
last of N/1024 shards; ``again`` makes another shard with the plan that is there, as each process of a job array does;
``parts`` cuts the list into a thousand parts; ``part`` makes one shard of one of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cpu import facts
from memory import make_weights, peak

_PARTS = 1000
_SHARD = 1024
_AT_ONCE = 100_000


def write_list(path: Path, rows: int) -> None:
    """Write ``rows`` paths with random names."""
    draws = np.random.default_rng(0)
    with path.open("w") as file:
        for start in range(0, rows, _AT_ONCE):
            numbers = draws.integers(0, 2**63, (min(_AT_ONCE, rows - start), 2)).tolist()
            texts = (f"{first:016x}{second:016x}" for first, second in numbers)
            file.writelines(f"images/{digits[:2]}/{digits}.jpg\n" for digits in texts)


def run(*words: str) -> dict[str, Any]:
    """Run a command of ``zoo`` in a process of its own; return exit code, peak memory and seconds."""
    started = time.monotonic()
    command = [sys.executable, __file__, "--run", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": round(time.monotonic() - started, 1)}


def measure(rows: int, folder: Path, model: list[str]) -> dict[str, Any]:
    """Measure all four commands at one number of rows."""
    source, out, cut = folder / f"{rows}.txt", folder / f"out{rows}", folder / f"parts{rows}"
    write_list(source, rows)
    shards = -(-rows // _SHARD)
    extract = ["extract", str(source), "--out", str(out), *model]
    found: dict[str, Any] = {"rows": rows, "shards": shards}
    found["first"] = run(*extract, "--shard", f"{shards - 1}/{shards}")
    found["again"] = run(*extract, "--shard", f"0/{shards}")
    found["plan_bytes"] = (out / ".zoo" / "plan.parquet").stat().st_size
    found["parts"] = run("plan", str(source), "--out", str(cut), "--parts", str(_PARTS))
    part = cut / "part-00007"
    found["part"] = run(
        "extract", f"{part}.zooplan", "--out", str(part), *model, "--shard", f"0/{-(-shards // _PARTS)}"
    )
    source.unlink()
    return found


def main() -> None:
    """Measure, print a table, write JSON after each number of rows."""
    if sys.argv[1:2] == ["--run"]:
        from zoo.cli.app import exit_code
        from zoo.cli.main import app

        sys.argv = ["zoo", *sys.argv[2:]]
        code = exit_code(app, "zoo", "")
        print(json.dumps({"exit_code": code, "peak_bytes": peak()}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+", help="numbers of rows of the plan")
    parser.add_argument("--json", type=Path, help="write the measurements there")
    arguments = parser.parse_args()
    command = " ".join(["benchmarks/scale.py", *sys.argv[1:]])
    measured: list[dict[str, Any]] = []
    print(f"{'rows':>10} {'command':>8} {'peak GB':>8} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        # onnx: torch alone would take as much memory as the plan
        model = ["--model", str(make_weights(folder / "random.safetensors")), "--backend", "onnx", "--device", "cpu"]
        measure(_PARTS, folder, model)  # exports the network, once
        for rows in arguments.rows:
            measured.append(measure(rows, folder, model))
            for name in ("first", "again", "parts", "part"):
                row = measured[-1][name]
                print(f"{rows:10d} {name:>8} {row['peak_bytes'] / 1e9:8.2f} {row['seconds']:8.1f}", flush=True)
            if arguments.json:
                contents = {"command": command, "machine": facts(), "parts": _PARTS, "rows": measured}
                arguments.json.write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
