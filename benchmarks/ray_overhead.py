"""Overhead of ``zoo extract --engine ray`` with 4 local workers against one process of 4 threads.

    python benchmarks/ray_overhead.py --photos examples/photos --images 4096 12288 \\
        --json benchmarks/results/ray_overhead.json

Both make the same bytes, which is checked. They take turns, round after round, with the fewest and the most images:
the difference of the two is the time of the images alone (``steady``), without the start of Ray and of the workers,
which a long run pays once. Ray is the extra ``cluster``. A worker has one thread of decoding and of the network; the
one process has 4 of each. The images are JPEGs of 64 pixels and the network is small, which is the worst case: an image
costs little, and what Ray does for a shard counts most.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cpu import facts
from extraction_profile import small_files

ROOT = Path(__file__).parents[1]
_WORKERS = 4
_SHARD = 512  # images


def run(command: list[str], threads: int) -> float:
    """Run a command; return its seconds. Raises RuntimeError with its last line."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return time.monotonic() - started


def digest(out: Path) -> str:
    """Return a hash of the shards of a result."""
    shards = sorted(out.glob("*.parquet"))
    if not shards:
        raise RuntimeError(f"no shards in {out}")
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in shards)).hexdigest()


def main() -> None:
    """Start a cluster, let both take turns, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--images", type=int, nargs=2, default=[4096, 12288], help="fewest and most")
    parser.add_argument("--model", default="simclr_r18_mini")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=6399)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    fewest, most = args.images
    zoo = [sys.executable, "-m", "zoo", "extract", "--model", args.model, "--shard-size", str(_SHARD), "--quiet"]
    contenders = {
        "one process": (["--workers", str(_WORKERS)], _WORKERS),
        "ray": (["--engine", "ray", "--ray-address", f"127.0.0.1:{args.port}", "--workers", "1"], 1),
    }
    seconds: dict[str, dict[int, list[float]]] = {name: {fewest: [], most: []} for name in contenders}
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    head = ["--head", f"--num-cpus={_WORKERS}", f"--port={args.port}", "--include-dashboard=false"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for images in args.images:
            (work / str(images)).mkdir()
            small_files(args.photos, images, work / str(images))
        run([*ray, "start", *head, "--disable-usage-stats"], 1)
        try:
            for turn in range(args.rounds):
                for images in args.images:
                    made = set()
                    # Who goes first changes from round to round.
                    for name in sorted(contenders, reverse=bool(turn % 2)):
                        (options, threads), out = contenders[name], work / "out"
                        command = [*zoo, "--images", str(work / str(images)), "--out", str(out), *options]
                        seconds[name][images].append(run(command, threads))
                        made.add(digest(out))
                        shutil.rmtree(out)
                    if len(made) != 1:
                        raise RuntimeError("the two made different bytes")
        finally:
            run([*ray, "stop"], 1)
    rows = {}
    for name, by_images in seconds.items():
        steady = [high - low for low, high in zip(by_images[fewest], by_images[most], strict=True)]
        rows[name] = {
            "seconds": {str(images): [round(value, 2) for value in values] for images, values in by_images.items()},
            "steady_images_per_second": round((most - fewest) / statistics.median(steady), 1),
            "start_seconds": round(
                statistics.median(by_images[fewest]) - fewest * statistics.median(steady) / (most - fewest), 2
            ),
        }
    one, other = (rows[name]["steady_images_per_second"] for name in ("one process", "ray"))
    found = {"machine": facts(), "workers": _WORKERS, "images": args.images, "rounds": args.rounds, "rows": rows}
    args.json.write_text(json.dumps({**found, "overhead": round(one / other - 1, 4)}, indent=1) + "\n")
    print(json.dumps(rows, indent=1), f"overhead {one / other - 1:+.1%}")


if __name__ == "__main__":
    main()
