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
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop

from zoo.datasets.labelled import open_splits
from zoo.errors import UserError
from zoo.evaluate.baselines import open_model
from zoo.evaluate.frozen import linear_sgd
from zoo.evaluate.frozen.linear_sgd import PUBLISHED, ParallelHeads, learning_rate_factor
from zoo.evaluate.random_crops import RandomCrops, epoch_batches
from zoo.evaluate.run import evaluate
from zoo.numerics.lars import LARS
from zoo.transforms.preprocess import Preprocessing


@pytest.mark.parametrize("protocol", ["linear-sgd", "linear-lars", "linear-moco"])
def test_a_head_among_others_is_the_head_alone(protocol: str) -> None:
    options = PUBLISHED[protocol]
    torch.manual_seed(0)
    heads = ParallelHeads([0.5, 0.1, 0.1], 4, 6, options, seed=3, device="cpu")
    counts = torch.ones(20, 3)
    counts[::4, 2] = 0  # the third leaves some images out
    alone = [nn.Linear(6, 4) for _ in range(3)]
    for n, layer in enumerate(alone):
        layer.weight.data, layer.bias.data = heads.weight[n].clone(), heads.bias[n].clone()
    make = LARS if options.lars else lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=options.nesterov)
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


def test_moco_s_linear_protocol_is_its_code_s() -> None:
    """facebookresearch/moco, main_lincls.py at 7397dfe."""
    moco = PUBLISHED["linear-moco"]
    assert (moco.epochs, moco.batch, moco.lr, moco.scaled, moco.nesterov, moco.lars) == (
        (100, 256, (30.0,), False, False, False)
    )  # fmt: skip
    assert (moco.init, moco.clamped, moco.min_area, moco.size) == (0.01, False, 0.08, 224)
    factors = [learning_rate_factor(moco, epoch, 3, 5) for epoch in (0, 59, 60, 79, 80, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    heads = ParallelHeads([30.0], 200, 300, moco, seed=0, device="cpu")
    assert float(heads.weight.std()) == pytest.approx(0.01, rel=0.01)
    assert not heads.bias.any()
    sgd, lars = PUBLISHED["linear-sgd"], PUBLISHED["linear-lars"]
    assert learning_rate_factor(sgd, 40, 0, 5) == pytest.approx(0.5)
    assert learning_rate_factor(sgd, 40, 3, 5) < 0.5
    assert learning_rate_factor(lars, 45, 3, 5) == pytest.approx(0.5)


def test_moco_s_linear_protocol_runs_by_name(tiles: Path, tiny_weights: str) -> None:
    settings = {"epochs": "6", "batch": "16", "size": "32", "lr": "2", "drops": "4,5"}
    found = evaluate("linear-moco", tiny_weights, tiles, settings=settings)
    parameters = found["parameters"]
    assert (found["protocol"], parameters["lr"], parameters["chosen_by"]) == ("linear-moco", 2.0, "given")
    assert (parameters["lr_per_images"], parameters["optimiser"]) == ("any batch", "SGD, momentum .9")
    assert parameters["schedule"] == "a tenth from epochs 4, 5"
    assert found["score"] > 25
    embedder = open_model(tiny_weights, "cpu")
    preprocessing = linear_sgd._with_size(embedder, 224).preprocessing
    assert (preprocessing.input_size, preprocessing.resize, preprocessing.interpolation) == (224, 256, "bilinear")


def test_a_list_names_the_held_out_images(tiles: Path, tiny_weights: str, tmp_path: Path) -> None:
    train = open_splits(tiles).train
    names = [train.row_name(row) for row in (40, 3, 17)]
    names_file = tmp_path / "validation.txt"
    names_file.write_text("\n".join(names) + "\n")
    assert linear_sgd.held_out_rows(train, str(names_file), 0)[0].tolist() == [3, 17, 40]
    settings = {"epochs": "1", "batch": "16", "lr": "1,0.1", "held_out": str(names_file)}
    found = evaluate("linear-sgd", tiny_weights, tiles, settings=settings)
    chosen_by = "3 training images of validation.txt, held out of heads of their own"
    assert found["parameters"]["chosen_by"] == chosen_by
    for text, message in (
        ("", "names 0 of 64"),
        ("nothing.png", r"lacks 1 of the 1 files of validation\.txt: nothing\.png"),
        (Path(names[0]).name, "has several images named"),
    ):
        names_file.write_text(text)
        with pytest.raises(UserError, match=message):
            linear_sgd.held_out_rows(train, str(names_file), 0)
    with pytest.raises(UserError, match="--set held_out: cannot read"):
        linear_sgd.held_out_rows(train, str(tmp_path / "none.txt"), 0)


@pytest.mark.parametrize(("protocol", "settings"), [("linear-moco", {}), ("linear-sgd", {"lr": "0.1"})])
def test_a_list_without_a_choice_is_refused(
    protocol: str, settings: dict[str, str], tiles: Path, tiny_weights: str, tmp_path: Path
) -> None:
    """Whether or not the file can be read: a single learning rate would leave it unused."""
    for held_out in (tmp_path / "none.txt", tiles):
        with pytest.raises(UserError, match=r"^--set held_out chooses between learning rates: give several, .*lr="):
            evaluate(protocol, tiny_weights, tiles, settings={"epochs": "1", "held_out": str(held_out), **settings})


@pytest.mark.parametrize(("protocol", "high"), [("linear-sgd", "4"), ("linear-lars", "400")])
def test_the_sweep_learns_and_is_the_same_again(
    protocol: str, high: str, tiles: Path, tiny_weights: str, cache: Path
) -> None:
    epochs = "8" if protocol == "linear-lars" else "3"
    settings = {"epochs": epochs, "batch": "16", "lr": f"{high},0.001"}
    first = evaluate(protocol, tiny_weights, tiles, settings=settings)
    again = evaluate(protocol, tiny_weights, tiles, settings=settings)
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    assert set(first["parameters"]["held_out_accuracy_by_lr"]) == {high, "0.001"}
    assert "6 random training images" in first["parameters"]["chosen_by"]
    assert first["score"] > 25  # four classes
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


def test_a_crop_is_torchvisions_crop_and_resize(tiles: Path) -> None:
    """Pillow's resize with a box would read the pixels beside the box, too."""
    crops = RandomCrops(open_splits(tiles).train, Preprocessing(16, 16), seed=1)
    rows = np.arange(20)
    images = [crops.images.image(row) for row in rows]
    boxes, flips = crops._draw(images, rows, 0)
    assert not flips.all()
    for image, (left, top, right, bottom), flip, found in zip(images, boxes, flips, crops.pixels(rows, 0), strict=True):
        place = (int(top), int(left), int(bottom - top), int(right - left))
        official = np.asarray(resized_crop(image, *place, [16, 16], InterpolationMode.BICUBIC))
        np.testing.assert_array_equal(found, official[:, ::-1] if flip else official)


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
