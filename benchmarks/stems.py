"""Compare both stems and two sizes of the views, at equal images and at equal time.

    python benchmarks/stems.py --data DATA --out OUT --json FILE

SimCLR with a ResNet-18 and the first IMAGES training images of Tiny-ImageNet (``zoo-train sweep``), once over them at
equal images, and then as many epochs as take about the time of the slowest row. The score is kNN on the validation
images, with the same IMAGES as the bank. Finished runs that OUT holds are read; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from training.launch import launch_sweep

RECIPE = "simclr_r18_tin64"
# Epochs by stem and size. An image costs .44 GFLOP in a step with views of 32 pixels, 1.8 with 64, and about 6 with the
# CIFAR stem at 32, which halves the picture one time and not three times before the last stages.
EQUAL_IMAGES = {("imagenet", 32): 1, ("imagenet", 64): 1, ("cifar", 32): 1}
EQUAL_TIME = {("imagenet", 32): 10, ("imagenet", 64): 3}
SETTINGS = ["optim.lr=0.1", "optim.batch_size=64", "optim.warmup_epochs=0.3", "monitor_epochs=0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for (stem, size), epochs in [*EQUAL_IMAGES.items(), *EQUAL_TIME.items()]:
        result = launch_sweep(
            RECIPE,
            args.data,
            args.out / f"{stem}.{size}.{epochs}ep",
            over=[f"views.size={size}"],
            overrides=[f"stem={stem}", f"optim.epochs={epochs}", *SETTINGS],
            halving=None,
            images=args.images,
            in_memory=False,
            device="cpu",
            report=lambda line: print(line, flush=True),
        )
        trial = result["rungs"][-1]["trials"][0]
        row = {"stem": stem, "size": size, "epochs": epochs}
        rows.append(row | {name: trial[name] for name in ("knn", "interval", "collapsed", "images_seen", "minutes")})
        args.json.write_text(json.dumps({"recipe": RECIPE, "set": SETTINGS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
