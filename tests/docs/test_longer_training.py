"""The table of the network that was trained longer is what its JSON files say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from doc_blocks import ROOT

LONGER = ROOT / "benchmarks" / "results" / "longer_training"
BEFORE = ROOT / "model_cards" / "results" / "simclr_r18_mini.tin32"
NOW = ROOT / "model_cards" / "results" / "simclr_r18_mini.tin64"
SECTION = (
    (ROOT / "docs" / "results.md")
    .read_text()
    .partition("### Trained longer, and with larger views\n")[2]
    .partition("\n## ")[0]
)


def cell(path: Any) -> str:
    found = json.loads(path.read_text())
    low, high = found["interval_95"]
    return f"{found['score']:.1f} ({low:.1f}-{high:.1f})"


@pytest.mark.parametrize(
    ("title", "name", "before"),
    [
        ("Tiny-ImageNet, kNN", "knn.tiny-imagenet", LONGER / "knn.tiny-imagenet.simclr_r18_mini.json"),
        ("CIFAR-10 (JPEG), kNN", "knn.cifar10-jpeg", BEFORE / "knn.cifar10-jpeg.simclr_r18_mini.json"),
        ("Flowers-17, kNN", "knn.flowers17", BEFORE / "knn.flowers17.simclr_r18_mini.json"),
        ("Flowers-17, linear", "linear.flowers17", BEFORE / "linear.flowers17.simclr_r18_mini.json"),
    ],
)
def test_a_row_is_that_of_the_json(title: str, name: str, before: Any) -> None:
    now = LONGER / f"{name}.tin64.json" if name == "knn.tiny-imagenet" else NOW / f"{name}.simclr_r18_mini.json"
    assert f"| {title} | {cell(before)} | {cell(LONGER / f'{name}.json')} | {cell(now)} |" in SECTION


def test_the_run_is_the_one_that_is_described() -> None:
    run = json.loads((LONGER / "training.json").read_text())
    assert run["steps"] == run["total_steps"]
    assert (
        f"{run['images_seen'] / 1e6:.1f} million images in batches of {run['recipe']['optim']['batch_size']}" in SECTION
    )
    assert run["data"]["images"] == 100_000
    parts = [json.loads((NOW / "earlier" / f"{n}.json").read_text()) for n in (1, 2)]
    parts.append(json.loads((NOW / "training.json").read_text()))
    assert parts[0] == run
    assert [part["recipe"]["views"]["size"] for part in parts] == [32, 64, 64]
    assert all(part["steps"] == part["total_steps"] for part in parts)
    assert f"{(parts[1]['images_seen'] + parts[2]['images_seen']) / 1e6:.1f} million images at 64 pixels" in SECTION


def test_stems_and_sizes_are_those_of_the_json() -> None:
    rows = json.loads((LONGER / "stems.json").read_text())["rows"]
    assert len(rows) == 5
    for row in rows:
        stem = {"imagenet": "ImageNet", "cifar": "CIFAR"}[row["stem"]]
        score = f"{row['knn']:.1f} ({row['interval'][0]:.1f}-{row['interval'][1]:.1f})"
        assert f"| {stem} | {row['size']} | {row['epochs']} | {row['tera_operations']:.1f} | {score} |" in SECTION


def test_the_averaged_weights_are_those_of_the_json() -> None:
    found = json.loads((LONGER / "averaged_weights.json").read_text())
    online, average = found["online"], found["average"]
    for said in (
        f"{average['tiny-imagenet']:.1f} and {online['tiny-imagenet']:.1f} on Tiny-ImageNet",
        f"{average['cifar10-jpeg']:.1f} (average) and {online['cifar10-jpeg']:.1f} on CIFAR-10 (JPEG)",
        f"{average['flowers17']:.1f} and {online['flowers17']:.1f} on",
        "({tiny-imagenet}, {cifar10-jpeg} and {flowers17} training images".format(**found["images"]),
    ):
        assert said in SECTION.replace("\n", " ")
