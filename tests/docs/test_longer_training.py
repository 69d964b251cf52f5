"""The table of the network that was trained longer is what its JSON files say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from doc_blocks import ROOT

LONGER = ROOT / "benchmarks" / "results" / "longer_training"
SHIPS = ROOT / "model_cards" / "results" / "simclr_r18_mini.tin32"
SECTION = (ROOT / "docs" / "results.md").read_text().partition("### Trained longer\n")[2].partition("\n## ")[0]


def cell(path: Any) -> str:
    found = json.loads(path.read_text())
    low, high = found["interval_95"]
    return f"{found['score']:.1f} ({low:.1f}-{high:.1f})"


@pytest.mark.parametrize(
    ("title", "longer", "ships"),
    [
        ("Tiny-ImageNet, kNN", "knn.tiny-imagenet", LONGER / "knn.tiny-imagenet.simclr_r18_mini.json"),
        ("CIFAR-10 (JPEG), kNN", "knn.cifar10-jpeg", SHIPS / "knn.cifar10-jpeg.simclr_r18_mini.json"),
        ("Flowers-17, kNN", "knn.flowers17", SHIPS / "knn.flowers17.simclr_r18_mini.json"),
        ("Flowers-17, linear", "linear.flowers17", SHIPS / "linear.flowers17.simclr_r18_mini.json"),
    ],
)
def test_a_row_is_that_of_the_json(title: str, longer: str, ships: Any) -> None:
    assert f"| {title} | {cell(LONGER / f'{longer}.json')} | {cell(ships)} |" in SECTION


def test_the_run_is_the_one_that_is_described() -> None:
    run = json.loads((LONGER / "training.json").read_text())
    assert run["steps"] == run["total_steps"]
    assert (
        f"{run['images_seen'] / 1e6:.1f} million images in batches of {run['recipe']['optim']['batch_size']}" in SECTION
    )
    assert run["data"]["images"] == 100_000
