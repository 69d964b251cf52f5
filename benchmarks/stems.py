"""Compare both stems and two sizes of the views, at equal images and at about equal operations.

    python benchmarks/stems.py --data DATA --out OUT --json FILE

SimCLR with a ResNet-18 and IMAGES training images of Tiny-ImageNet (``zoo-train sweep``): once over them, and then as
many epochs as take about the operations of the CIFAR stem. The score is kNN on the validation
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
# Operations of a step by stem and size of the views, in 10^9 an image, as `zoo-train` says them.
OPERATIONS = {("imagenet", 32): 0.444, ("imagenet", 64): 1.78, ("cifar", 32): 6.67}
EPOCHS = [("imagenet", 32, 1), ("imagenet", 64, 1), ("cifar", 32, 1), ("imagenet", 32, 10), ("imagenet", 64, 3)]
SETTINGS = ["optim.lr=0.1", "optim.batch_size=64", "optim.warmup_epochs=0.3", "monitor_epochs=0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for stem, size, epochs in EPOCHS:
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
        operations = round(OPERATIONS[stem, size] * trial["images_seen"] / 1000, 1)  # 10^12
        row = {"stem": stem, "size": size, "epochs": epochs, "tera_operations": operations}
        rows.append(row | {name: trial[name] for name in ("knn", "interval", "collapsed", "images_seen", "minutes")})
        args.json.write_text(json.dumps({"recipe": RECIPE, "set": SETTINGS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
