"""Peak memory of ``zoo extract`` by number of images, and the size of its plan per image.

    python benchmarks/memory.py 1000 5000
    python benchmarks/memory.py 1000 1000000 --source tar
    python benchmarks/memory.py --plan 1000000

For each number N the script makes N different 8 x 8 PNGs (a folder or a tar), extracts them in a process of its own
with the smallest network at 8 pixels (random weights), and prints the peak resident memory, its growth per image since
the first number, and the plan's bytes per image on the disk. ``--plan`` makes no images: it writes a plan of that many
files and reads it again. Each name has 32 random characters, as names that are hashes do: they compress worst.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_PER_FOLDER = 1000
_SIDE = 8  # pixels of an image and of the network's input; small, because time limits the number of images


def picture(number: int) -> bytes:
    """Return an 8 x 8 PNG whose pixels encode its number."""
    pixels = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    pixels.reshape(-1)[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def make_source(where: Path, images: int, kind: str) -> Path:
    """Write ``images`` PNGs into folders of 1000, or as members of one tar with the same names; return the path."""
    names = (f"{number // _PER_FOLDER:06d}/{number:09d}.png" for number in range(images))
    if kind == "tar":
        path = where / f"{images}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, name in enumerate(names):
                member, data = tarfile.TarInfo(name), picture(number)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all in memory
        return path
    root = where / str(images)
    for number, name in enumerate(names):
        path = root / name
        if number % _PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(picture(number))
    return root


def make_weights(path: Path) -> Path:
    """Save the smallest architecture with random weights (seed 0); return the path."""
    import torch

    from zoo.hub.exported_encoder import save_encoder
    from zoo.models.registry import ARCHITECTURES
    from zoo.models.resnet import build_encoder, encoder_state
    from zoo.transforms.preprocess import Preprocessing

    name, architecture = min(ARCHITECTURES.items(), key=lambda item: item[1].parameters)
    torch.manual_seed(0)
    about = {
        "architecture": name,
        "method": "byol",
        "licence": "Apache-2.0",
        "preprocessing": Preprocessing(_SIDE, _SIDE).to_json(),
    }
    save_encoder(path, encoder_state(build_encoder(architecture)), about)
    return path


def measure(source: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Run one extraction in a process of its own; return its exit code, peak memory and seconds."""
    words = [sys.executable, __file__, "--run", str(source), str(out), *options]
    started = time.monotonic()
    report = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return {**json.loads(report.stdout.splitlines()[-1]), "seconds": round(time.monotonic() - started, 1)}


def measure_plan(rows: int, path: Path) -> dict[str, Any]:
    """Return the bytes per row of a plan with random names, sizes and times, on the disk and in memory."""
    import pyarrow as pa

    from zoo.embeddings.fingerprint import Fingerprint
    from zoo.embeddings.plan import Plan
    from zoo.sources.file_listing import FILES

    draws = np.random.default_rng(0)
    columns: dict[str, Any] = {"path": [], "size": draws.integers(10**4, 10**6, rows)}
    columns["mtime_ns"] = draws.integers(10**18, 2 * 10**18, rows)
    for number in draws.integers(0, 2**63, (rows, 2)).tolist():
        digits = f"{number[0]:016x}{number[1]:016x}"
        columns["path"].append(f"images/{digits[:2]}/{digits}.jpg".encode())
    files = pa.table(columns).cast(FILES).sort_by("path")
    fingerprint = Fingerprint({}, dim=512, format="parquet", batch_size=16, shard_size=1024)
    Plan.new(fingerprint, files).save(path, path.parent)
    one = path.with_suffix(".one")
    Plan.new(fingerprint, files.slice(0, 1)).save(one, path.parent)
    peaks = []
    for file in (one, path):
        words = [sys.executable, __file__, "--load", str(file)]
        peaks.append(int(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout))
    return {
        "rows": rows,
        "bytes_per_name": len(columns["path"][0]),
        "disk_bytes_per_image": round(path.stat().st_size / rows, 2),
        "memory_bytes_per_image": round((peaks[1] - peaks[0]) / rows, 1),
    }


def load_plan(path: str) -> None:
    """Read a plan, compute its key, and print the peak memory of this process."""
    from zoo.embeddings.plan import Plan

    plan = Plan.load(Path(path))
    assert plan is not None
    assert len(plan.key) == 64
    print(peak())


def peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts the parent's memory at the fork
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(source: str, out: str, options: list[str]) -> None:
    """Run ``zoo extract``; the last line of its output is a JSON object with the peak memory."""
    from zoo.cli.app import exit_code
    from zoo.cli.main import app

    sys.argv = ["zoo", "extract", "--images", source, "--out", out, *options]
    code = exit_code(app, "zoo", "")
    print(json.dumps({"exit_code": code, "peak_bytes": peak()}))


def main() -> None:
    """Measure, print a table, write JSON."""
    if sys.argv[1:2] == ["--run"]:
        return run(sys.argv[2], sys.argv[3], sys.argv[4:])
    if sys.argv[1:2] == ["--load"]:
        return load_plan(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, nargs="*", help="numbers of images to extract")
    parser.add_argument("--plan", type=int, metavar="ROWS", help="measure a plan alone")
    parser.add_argument("--source", choices=("folder", "tar"), default="folder")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument(
        "--options", default="--device cpu --backend torch", help="more options of `zoo extract`; default: %(default)s"
    )
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.plan:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure_plan(arguments.plan, Path(folder) / "plan.parquet"))
        print(rows[0])
        return _write(arguments.out, rows)
    print(f"{'images':>10} {'peak MB':>8} {'growth, bytes/image':>20} {'plan, bytes/image':>18} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--model", str(make_weights(Path(folder) / "random.safetensors")), *arguments.options.split()]
        for images in arguments.images:
            source, out = make_source(Path(folder), images, arguments.source), Path(folder) / f"out{images}"
            row = {"images": images, "source": arguments.source, **measure(source, out, options)}
            row["plan_bytes_per_image"] = round((out / ".zoo" / "plan.parquet").stat().st_size / images, 2)
            rows.append(row)
            more = images - rows[0]["images"]
            growth = (row["peak_bytes"] - rows[0]["peak_bytes"]) / more if more else 0.0
            row["growth_bytes_per_image"] = round(growth, 1)
            print(
                f"{images:10d} {row['peak_bytes'] / 1e6:8.1f} {growth:20.1f} {row['plan_bytes_per_image']:18.2f} "
                f"{row['seconds']:8.1f}",
                flush=True,
            )
            _write(arguments.out, rows)  # after each: the last number may take hours


def _write(out: Path | None, rows: list[dict[str, Any]]) -> None:
    if out:
        out.write_text(json.dumps({"command": " ".join(sys.argv), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
