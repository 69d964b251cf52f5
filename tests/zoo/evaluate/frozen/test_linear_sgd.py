"""ParallelHeads that learn side by side learn what they would alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from zoo.datasets.labelled import open_splits
from zoo.errors import UserError
from zoo.evaluate.frozen.linear_sgd import PUBLISHED, ParallelHeads
from zoo.evaluate.random_crops import RandomCrops, epoch_batches
from zoo.evaluate.run import evaluate
from zoo.numerics.lars import LARS
from zoo.transforms.preprocess import Preprocessing


@pytest.mark.parametrize("protocol", ["linear-sgd", "linear-lars"])
def test_a_head_among_others_is_the_head_alone(protocol: str) -> None:
    options = PUBLISHED[protocol]
    torch.manual_seed(0)
    heads = ParallelHeads([0.5, 0.1, 0.1], 4, 6, options, seed=3, device="cpu")
    counts = torch.ones(20, 3)
    counts[::4, 2] = 0  # the third leaves some images out
    alone = [nn.Linear(6, 4) for _ in range(3)]
    for n, layer in enumerate(alone):
        layer.weight.data, layer.bias.data = heads.weight[n].clone(), heads.bias[n].clone()
    make = LARS if options.lars else lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True)
    optimisers = [make(layer.parameters(), lr) for layer, lr in zip(alone, heads.peaks, strict=True)]  # type: ignore[operator]
    for factor in (1.0, 0.7, 0.2):
        x, y = torch.randn(20, 6), torch.randint(0, 4, (20,))
        heads.step(x, y, counts, factor)
        for n, (layer, optimiser) in enumerate(zip(alone, optimisers, strict=True)):
            rows = counts[:, n] > 0
            optimiser.zero_grad()
            F.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimiser.param_groups[0]["lr"] = heads.peaks[n] * factor
            optimiser.step()
    for n, layer in enumerate(alone):
        torch.testing.assert_close(heads.weight[n], layer.weight.data, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(heads.logits(x)[:, n], layer(x).detach(), atol=1e-5, rtol=1e-5)


def test_the_published_settings_are_the_papers() -> None:
    sgd, lars = PUBLISHED["linear-sgd"], PUBLISHED["linear-lars"]
    assert (sgd.epochs, sgd.batch, sgd.lr) == (80, 1024, (0.4, 0.3, 0.2, 0.1, 0.05))
    assert (lars.epochs, lars.batch, lars.lr, lars.lars) == (90, 4096, (0.1, 0.02), True)


@pytest.mark.parametrize(("protocol", "high"), [("linear-sgd", "4"), ("linear-lars", "400")])
def test_the_sweep_learns_and_is_the_same_again(
    protocol: str, high: str, tiles: Path, tiny_weights: str, cache: Path
) -> None:
    settings = {"epochs": "3", "batch": "16", "lr": f"{high},0.001"}
    first = evaluate(protocol, tiny_weights, tiles, settings=settings)
    again = evaluate(protocol, tiny_weights, tiles, settings=settings)
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    assert set(first["parameters"]["held_out_accuracy_by_lr"]) == {high, "0.001"}
    assert "6 training images" in first["parameters"]["chosen_by"]
    assert protocol == "linear-lars" or first["score"] > 25  # four classes; LARS takes longer than three epochs
    with pytest.raises(UserError, match="the nearest is 'epochs'"):
        evaluate(protocol, tiny_weights, tiles, settings={"epoch": "3"})


def test_a_crop_depends_on_its_row_and_epoch_alone(tiles: Path) -> None:
    crops = RandomCrops(open_splits(tiles).train, Preprocessing(32, 32), seed=1)
    together = crops.pixels(np.arange(10), 4)
    assert together.shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(crops.pixels(np.array([7, 2]), 4), together[[7, 2]])
    assert (crops.pixels(np.arange(10), 5) != together).any()
    whole = RandomCrops(crops.images, Preprocessing(32, 32), seed=1, min_area=1.0, clamped=False)
    assert whole.pixels(np.arange(3), 0).shape == (3, 32, 32, 3)


@pytest.mark.parametrize(("size", "box"), [((900, 40), (423, 0, 476, 40)), ((40, 900), (0, 423, 40, 476))])
def test_a_strip_is_cropped_in_its_middle(tiles: Path, size: tuple[int, int], box: tuple[int, ...]) -> None:
    """torchvision's fallback, where no draw fits; BYOL's rule clamps the crop and draws its place."""
    crops = RandomCrops(open_splits(tiles).train, Preprocessing(32, 32), seed=1, clamped=False)
    strips, rows = [Image.new("RGB", size)] * 20, np.arange(20)
    np.testing.assert_array_equal(crops._draw(strips, rows, 0)[0], [box] * 20)
    assert len(np.unique(replace(crops, clamped=True)._draw(strips, rows, 0)[0], axis=0)) > 10


def test_batches_hold_every_row_once_and_none_is_a_single_image() -> None:
    for count, size in ((65, 16), (64, 16), (5, 100), (2, 1)):
        parts = epoch_batches(count, size, 0, 3)
        assert sorted(np.concatenate(parts)) == list(range(count))
        assert min(map(len, parts)) > 1
