"""How fluid the page of ``zoo serve`` is with many images, in headless Chromium, and what its server needs.

    python benchmarks/page.py --images 100000 --out benchmarks/results/page.json

The script writes a result of so many rows through the project's own writer: vectors around 100 centres, the 24 example
photographs as hard links, and three kept columns. ``zoo serve`` runs in a process of its own. ``page.mjs`` opens the
page and measures in it: the first paint, the first frame with the map, frames and paints while the map is panned, and
the time of a filter and of a colouring. The graphics card is off, so that a machine without one can repeat it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cpu
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos"
_PER_FOLDER = 1000


def make_result(root: Path, images: int) -> tuple[Path, Path]:
    """Write the pictures and a result of them; return both folders."""
    import zoo
    from zoo.embeddings import manifest
    from zoo.embeddings.columns import OK
    from zoo.embeddings.fingerprint import Fingerprint
    from zoo.embeddings.plan import Plan
    from zoo.embeddings.shards import OutputFolder, Rows
    from zoo.search.collection import Collection
    from zoo.search.index import build
    from zoo.sources.file_listing import FILES

    # The facts of a real extraction: the server opens the model that they name.
    zoo.extract(PHOTOS, root / "small", device="cpu", backend="onnx")
    told = json.loads((root / "small" / "_manifest.json").read_text())
    told = {key: value for key, value in told.items() if key not in (*manifest.RESULT_KEYS, manifest.LEFT_OUT)}
    photos = sorted(path for path in PHOTOS.iterdir() if path.suffix in (".jpg", ".png"))
    digests = [hashlib.sha256(photo.read_bytes()).hexdigest() for photo in photos]
    names = [f"{n // _PER_FOLDER:04d}/{n:07d}{photos[n % len(photos)].suffix}" for n in range(images)]
    copies = [root / "copies" / photo.name for photo in photos]
    copies[0].parent.mkdir()
    for photo, copy in zip(photos, copies, strict=True):
        copy.write_bytes(photo.read_bytes())
    for n, name in enumerate(names):
        path = root / "images" / name
        if n % _PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        os.link(copies[n % len(copies)], path)

    # Three kept columns: categories, a scale, and a caption.
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 100, images)
    kept = {
        "label": pa.array([f"class {label}" for label in labels]),
        "price": pa.array(draws.lognormal(3, 1, images)),
        "title": pa.array([f"Article {n:x}" for n in draws.integers(0, 2**40, images)]),
    }
    files = pa.table([[name.encode() for name in names], [1] * images, [1] * images], schema=FILES)
    for name, column in kept.items():
        files = files.append_column(name, column)
    plan, folder = Plan.new(Fingerprint.from_json({**told, "keep": list(kept)}), files), OutputFolder(root / "out")
    folder.create()
    plan.save(folder.plan, folder.scratch)
    centres = draws.normal(size=(100, told["dim"])).astype(np.float32)
    for shard in range(plan.shards):
        rows, planned = Rows.empty(plan, shard), plan.rows(shard)
        block = slice(planned.start, planned.stop)
        noise = draws.normal(size=(len(planned), told["dim"])).astype(np.float32)
        rows.vectors["embedding"][:] = centres[labels[block]] + noise
        for slot, row in enumerate(planned):
            rows.status[slot], rows.sha256[slot] = OK, digests[row % len(digests)]
            rows.width[slot] = rows.height[slot] = 300
        folder.write(plan, shard, rows)
    manifest.write(folder, manifest.summarise(folder, plan))
    build(Collection(root / "out"), exact=True)
    return root / "images", root / "out"


def memory(pid: int) -> dict[str, int]:
    """Return the resident memory of a process and its peak, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = {key: re.search(rf"{key}:\s+(\d+) kB", status) for key in ("VmRSS", "VmHWM")}
    return {key: int(match[1]) * 1024 for key, match in found.items() if match}


def measure(images: Path, out: Path, runs: int) -> dict[str, Any]:
    """Start the server, open the page so many times, and return what was measured, medians over the runs."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browsers import CHROMIUM, PLAYWRIGHT, installed

    if CHROMIUM is None:
        sys.exit("needs Chromium")
    started = time.monotonic()
    command = [sys.executable, "-m", "zoo", "serve", out, "--images", images, "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        match = re.match(r"(http://127\.0\.0\.1:\d+/)", server.stdout.readline())
        if match is None:
            sys.exit("the server did not start")
        seconds, at_start = time.monotonic() - started, memory(server.pid)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "node_modules").symlink_to(installed(PLAYWRIGHT))
            script = Path(folder) / "page.mjs"
            script.write_text((Path(__file__).parent / "page.mjs").read_text())
            found = [
                json.loads(
                    subprocess.run(
                        ["node", script, match[1], CHROMIUM], check=True, stdout=subprocess.PIPE, text=True
                    ).stdout
                )
                for _ in range(runs)
            ]
        after = memory(server.pid)
    finally:
        server.terminate()
        server.wait(20)
    page = {key: round(statistics.median(run[key] for run in found), 1) for key in found[0]}
    return {
        "server_start_s": round(seconds, 1),
        "server_memory_at_start_bytes": at_start.get("VmRSS"),
        "server_memory_afterwards_bytes": after.get("VmRSS"),
        "server_memory_peak_bytes": after.get("VmHWM"),
        **page,
        "runs": found,
    }


def main() -> None:
    """Make a result for each number of images, measure, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000])
    parser.add_argument("--runs", type=int, default=3, help="how often the page is opened")
    parser.add_argument("--out", type=Path, help="write JSON")
    arguments = parser.parse_args()
    rows = []
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            row = {"images": images, **measure(*make_result(Path(folder), images), arguments.runs)}
        rows.append(row)
        print({key: value for key, value in row.items() if key != "runs"}, flush=True)
        if arguments.out:
            facts = {"command": f"python benchmarks/page.py {' '.join(sys.argv[1:])}", "cpu": cpu.facts(), "rows": rows}
            arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
