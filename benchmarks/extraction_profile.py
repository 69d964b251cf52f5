"""Where the time of ``zoo extract`` goes, on many small files and on large photographs; with a flame graph of each.

    python -m pip install --target PYSPY py-spy==0.4.3
    PATH=PYSPY/bin:$PATH
    python benchmarks/extraction_profile.py --photos examples/photos --small 100000 --large 1000 \\
        --json benchmarks/results/extraction_profile.json

``small`` are JPEGs of 64 pixels, each a crop of its own of a photograph (seed 0); ``large`` are the photographs at 12
megapixels, over and over, with exact decoding and with ``--decode scaled``. py-spy samples all threads that run, a
hundred times a second. The command runs twice for each kind: once for the shares, once for the flame graph, an SVG
beside the JSON. A sample belongs to the first line of ``STAGES`` that matches a frame, from the innermost outwards.
``seconds_to_first`` is the time from the start of the command to the first committed image, from a run of one image;
``milliseconds_an_image`` is of the rest. Both include the profiler.
"""

from __future__ import annotations

import argparse
import collections
import json
import linecache
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cpu import facts
from extraction import copies
from PIL import Image

ROOT = Path(__file__).parents[1]
_RATE = 100  # samples a second
WAITING = "waiting"
_SIDE = 64  # pixels of a small file
# What the innermost frame of a thread has that waits for another one.
_WAITS = re.compile(r"^(_worker|Condition\.wait|Semaphore\.acquire|_wait_for_tstate_lock) \(")
# Stage, and what a frame "function (file:line) text of the line" of it has.
STAGES = (
    ("network", r"onnxruntime/|onnx_backend|outputs_of"),
    ("hash", r"read_image \(.*sha256\("),
    ("read", r"read_bytes|zoo/sources/(storage|image_files)"),
    ("list", r"zoo/sources/"),
    ("resize", r"preprocess\.py|resample"),
    ("decode", r"zoo/transforms/|PIL/"),
    ("commit", r"zoo/embeddings/|pyarrow/|atomic_files"),
    ("imports", r"importlib|<module>"),
    ("rows and threads", r"zoo/extraction/|zoo/system/|concurrent/|threading"),
)
_FRAME = re.compile(r"^(?P<function>.+) \((?P<file>.+?)(?::(?P<line>\d+))?\)$")


def small_files(photos: Path, count: int, folder: Path) -> None:
    """Write ``count`` JPEGs of 64 pixels, a thousand in a folder, each from another place of a photograph."""
    draws = np.random.default_rng(0)
    pictures = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.jpg"))]
    for number in range(count):
        if number % 1000 == 0:
            inner = folder / f"{number // 1000:03d}"
            inner.mkdir()
        picture = pictures[number % len(pictures)]
        left, top = (int(draws.integers(0, side - _SIDE)) for side in picture.size)
        picture.crop((left, top, left + _SIDE, top + _SIDE)).save(inner / f"{number:06d}.jpg", quality=90)


def stage_of(stack: str) -> str:
    """Return the stage of a sampled stack, ``frame;frame;...`` from the outermost to the innermost."""
    frames = stack.split(";")[::-1]
    if _WAITS.match(frames[0]):
        return WAITING
    for frame in frames:
        if not (parts := _FRAME.match(frame)):
            continue
        text = linecache.getline(parts["file"], int(parts["line"])) if parts["line"] else ""
        described = f"{frame} {text.strip()}"
        for stage, pattern in STAGES:
            if re.search(pattern, described):
                return stage
    return "other"


def record(source: Path, options: list[str], kind: str, out: Path) -> float:
    """Profile one extraction with py-spy into ``out``; return its seconds."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "zoo", "extract", str(source), "--out", f"{results}/out", "--quiet", *options]
        # The shares need lines and whole paths; a picture reads better without them.
        detail = "--function" if kind == "flamegraph" else "--full-filenames"
        spy = [
            "py-spy",
            "record",
            "--rate",
            str(_RATE),
            "--format",
            kind,
            "--output",
            str(out),
            "--nonblocking",
            detail,
        ]
        started = time.monotonic()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        subprocess.run([*spy, "--", *command], check=True, cwd=results, env=environment, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
    hidden = {str(out): out.name, sys.executable: "python", results: "OUT", str(source): "DIR"}
    text = out.read_text()
    for path, name in hidden.items():
        text = text.replace(path, name)
    out.write_text(text)
    return seconds


def measure(source: Path, images: int, options: list[str], flame: Path, work: Path) -> dict[str, Any]:
    """Profile one image, all images, and all again for the flame graph."""
    one = work / "one"
    one.mkdir(exist_ok=True)
    shutil.copy(next(path for path in sorted(source.rglob("*.jpg"))), one / "image.jpg")
    first = record(one, options, "raw", work / "first.txt")
    seconds = record(source, options, "raw", work / "stacks.txt")
    record(source, options, "flamegraph", flame)
    samples: collections.Counter[str] = collections.Counter()
    for line in (work / "stacks.txt").read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        samples[stage_of(stack)] += int(count)
    del samples[WAITING]
    total = sum(samples.values())
    return {
        "images": images,
        "options": options,
        "seconds": round(seconds, 1),
        "seconds_to_first": round(first, 2),
        "milliseconds_an_image": round(1000 * (seconds - first) / (images - 1), 3),
        "samples": total,
        "shares": {stage: round(count / total, 4) for stage, count in samples.most_common()},
        "flame_graph": flame.name,
    }


def main() -> None:
    """Measure what was asked for; write JSON after each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--model", default="simclr_r18_mini")
    parser.add_argument("--small", type=int, default=0, help="number of small files")
    parser.add_argument("--large", type=int, default=0, help="number of photographs of 12 megapixels")
    parser.add_argument("--json", type=Path, required=True, help="result; the flame graphs go beside it")
    args = parser.parse_args()
    kinds: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, scaled in (("small", ""), ("large", ""), ("large", "scaled")):
            if (images := getattr(args, name)) < 2:
                continue
            source = work / name
            if not source.exists():
                source.mkdir()
                if name == "small":
                    small_files(args.photos, images, source)
                else:
                    copies(args.photos, images, source, 12)
            kind = f"{name} {scaled}".strip()
            flame = args.json.with_name(f"{args.json.stem}_{kind.replace(' ', '_')}.svg")
            options = ["--model", args.model, *(("--decode", scaled) if scaled else ())]
            kinds[kind] = measure(source, images, options, flame, work)
            args.json.write_text(json.dumps({"machine": facts(), "kinds": kinds}, indent=1) + "\n")
            print(kind, kinds[kind])


if __name__ == "__main__":
    main()
