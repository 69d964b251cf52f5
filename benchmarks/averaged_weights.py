"""Compare the two encoders of a BYOL run: the online one, which is exported, and the average of it over the steps.

    python benchmarks/averaged_weights.py RUN --data DATA... --images 4000 --json FILE

The target encoder is an exponential moving average of the online weights, and its tau has reached 1 at the end of a
run. Both are measured by kNN on training images, as in ``crop_size.py``; no test image is read.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from crop_size import drawn, embedded

from training.engine import checkpoint
from training.results.export import export
from zoo.evaluate.frozen.knn import choose_by_leave_one_out

ONLINE, TARGET = "encoder.", "target_encoder."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of BYOL")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    data = {path.name: drawn(path, args.images) for path in args.data}
    found: dict[str, object] = {"images": {name: len(labels) for name, (_, labels) in data.items()}}
    with tempfile.TemporaryDirectory() as folder:
        for name, prefix in (("online", ONLINE), ("average", TARGET)):
            file = exported(args.run, prefix, Path(folder) / f"{name}.safetensors")
            row = {}
            for title, (images, labels) in data.items():
                _, tried = choose_by_leave_one_out(embedded(str(file), images, 64), labels)
                row[title] = max(tried.values())
            print(name, row, flush=True)
            found[name] = row
    args.json.write_text(json.dumps(found, indent=1) + "\n")


def exported(run: Path, prefix: str, out: Path) -> Path:
    """Export the encoder whose weights have ``prefix`` in the last checkpoint of a run."""
    state = checkpoint.load_last(run)
    if state is None:
        raise SystemExit(f"{run} holds no checkpoint")
    weights = state["method"]
    taken = {ONLINE + key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    copy = out.with_suffix(".pt")
    torch.save({**state, "method": {**weights, **taken}}, copy)
    export(copy, out, input_size=64, resize=64)
    return out


if __name__ == "__main__":
    main()
