"""The table "my images" of `docs/how-to/train.md`: what `zoo-train recipes --for-data` recommends in usual cases.

    python benchmarks/my_images.py

Nothing is trained; the hours come from `training/engine/rates.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from training.engine.cost import duration
from training.planning.recommend import recommend

CASES = [  # images, short side in pixels, device, GB
    (1_000, 32, "cpu", 8),
    (50_000, 32, "cpu", 8),
    (1_000, 224, "cpu", 8),
    (10_000, 224, "cpu", 8),
    (100_000, 224, "cpu", 8),
    (10_000, 32, "gpu", 8),
    (50_000, 64, "gpu", 8),
    (10_000, 224, "gpu", 16),
    (100_000, 224, "gpu", 24),
    (1_000_000, 224, "gpu", 80),
]


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| images | side | device | recipe | `--set` | expected |", "|---:|---:|---|---|---|---|"]
    for images, size, device, memory in CASES:
        found = recommend(images, size, device, memory)
        sets = ", ".join(f"`{setting}`" for setting in found.settings)
        time = "not measured" if found.seconds is None else duration(found.seconds)
        lines.append(f"| {images} | {size} | {device}, {memory} GB | `{found.name}` | {sets} | {time} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
