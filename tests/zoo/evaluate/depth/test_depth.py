"""Depth: the decoder and the loss as the papers write them, metrics, training on real photographs, bad files."""

from __future__ import annotations

import colorsys
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from annotated import depth_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from sklearn.metrics import mean_absolute_percentage_error, root_mean_squared_error
from torch import nn

from zoo.errors import UserError
from zoo.evaluate.dense.schedules import DEPTH
from zoo.evaluate.depth import data as source
from zoo.evaluate.depth.colours import change_colours, scale_saturation, turn_hue
from zoo.evaluate.depth.depth import (
    DepthNet,
    UpProjection,
    berhu,
    depth_metrics,
    error_sums,
    predict_all,
    train_network,
)
from zoo.evaluate.errors import Diverged
from zoo.evaluate.run import evaluate
from zoo.inference.embedder import Embedder

SMALL = replace(DEPTH["small"], crop=(64, 48), short_side=48, decoder=(32, 16, 8, 8), flip=0.0)


@torch.no_grad()
def test_up_projection_is_unpooling_with_zeros_and_two_convolutions() -> None:
    torch.manual_seed(0)
    block = UpProjection(6, 4).double().eval()
    for norm in (block.norm, block.conv_norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    unpooled = torch.zeros(2, 6, 10, 14, dtype=torch.float64)
    unpooled[:, :, ::2, ::2] = x
    kernel = block.up.weight.transpose(0, 1).flip(2, 3)  # a convolution with this is the transposed one
    both = block.norm(F.conv2d(unpooled, kernel, padding=2))
    main, shortcut = both[:, :4], both[:, 4:]
    expected = F.relu(block.conv_norm(F.conv2d(F.relu(main), block.conv.weight, padding=1)) + shortcut)
    torch.testing.assert_close(block(x), expected)
    assert not isinstance(block.up, nn.Upsample)


def test_berhu_is_l1_below_c_and_a_parabola_above() -> None:
    truth = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    prediction = torch.tensor([[1.1, 2.0, 3.0, 9.0]], requires_grad=True)  # the last one is unknown
    c = 0.2 * 2.0
    expected = (0.1 + (1.0 + c * c) / (2 * c) + (4.0 + c * c) / (2 * c)) / 3
    loss = berhu(prediction, truth)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    expected_gradient = torch.tensor([[1.0, 1.0 / c, 2.0 / c, 0.0]]) / 3  # c is a constant
    torch.testing.assert_close(prediction.grad, expected_gradient)
    assert float(berhu(prediction, torch.zeros(1, 4)).detach()) == 0  # nothing is known


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_metrics_are_scikit_learn_s_over_all_known_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 9, (3, 5, 6)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.3] = 0
    prediction = rng.uniform(0.2, 9, truth.shape).astype(np.float32)
    found = depth_metrics(np.stack([error_sums(p, t) for p, t in zip(prediction, truth, strict=True)]))
    known = truth > 0
    t, p = truth[known].astype(np.float64), prediction[known].astype(np.float64)
    assert found["rms"] == pytest.approx(root_mean_squared_error(t, p), abs=1e-9)
    assert found["rel"] == pytest.approx(mean_absolute_percentage_error(t, p), abs=1e-9)
    for k, name in enumerate(("pct<1.25", "pct<1.25^2", "pct<1.25^3"), start=1):
        within = [max(a / b, b / a) < 1.25**k for a, b in zip(t.tolist(), p.tolist(), strict=True)]
        assert found[name] == pytest.approx(100 * sum(within) / len(within), abs=1e-9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    depth_images(data, range(5))
    return data


def test_it_can_learn_real_photographs_by_heart(folder: Path, narrow: Embedder) -> None:
    schedule = replace(SMALL, iterations=60, lrs=(0.05,))
    frames, _ = source.open_depth_data(folder, schedule)
    torch.manual_seed(0)
    network = DepthNet(narrow.model, schedule.decoder)
    losses = train_network(network, frames, schedule, narrow.preprocessing, seed=0, key="o", device="cpu")
    assert np.mean(losses[-4:]) < 0.1 * np.mean(losses[:2])
    found = depth_metrics(predict_all(network, frames, schedule, narrow.preprocessing, "cpu"))
    assert found["pct<1.25"] > 97
    assert found["rel"] < 0.1


def test_the_command_writes_all_numbers_and_is_the_same_again(folder: Path, tmp_path: Path, cache: Path) -> None:
    settings = {"iterations": "2", "batch_size": "2", "crop": "32,24", "short_side": "24", "decoder": "8,8,4,4"}
    out = tmp_path / "r.json"
    first = evaluate("depth", "random", folder, out=out, device="cpu", settings=settings, schedule="small")
    assert json.loads(out.read_text()) == json.loads(json.dumps(first))
    assert (first["metric"], first["data"]["train"]["images"], first["data"]["test"]["images"]) == ("pct<1.25", 4, 1)
    assert (first["interval_95"], first["interval"]) == ([0, 100], "none: one test picture")
    assert {"pct<1.25", "pct<1.25^2", "pct<1.25^3", "rms", "rel"} <= set(first["metrics"])
    for kept in (cache / "evaluations").iterdir():
        kept.unlink()
    again = evaluate("depth", "random", folder, device="cpu", settings=settings, schedule="small")
    assert again | {"seconds": 0} == first | {"seconds": 0}


def test_a_crop_takes_the_middle_and_a_flip_both() -> None:
    class Ramp:
        name = "ramp"

        def __len__(self) -> int:
            return 1

        def sha256(self) -> str:
            return ""

        def frame(self, row: int) -> tuple[Image.Image, np.ndarray]:
            ramp = np.tile(np.arange(80, dtype=np.float32), (60, 1))
            return Image.fromarray(np.stack([ramp.astype(np.uint8)] * 3, axis=2)), ramp

    schedule = replace(SMALL, crop=(40, 30), short_side=60, flip=1.0)
    image, metres = source.center_crop(Ramp(), 0, schedule)
    np.testing.assert_array_equal(metres[0], np.arange(20, 60))
    np.testing.assert_array_equal(np.asarray(image)[0, :, 0], np.arange(20, 60))
    image, metres = source.training_crop(Ramp(), 0, schedule, 0, 0)
    np.testing.assert_array_equal(metres[0], np.arange(20, 60)[::-1])
    np.testing.assert_array_equal(np.asarray(image)[0, :, 0], np.arange(20, 60)[::-1])
    with pytest.raises(UserError, match="less than the crop of 40 x 30"):
        source.center_crop(Ramp(), 0, replace(schedule, short_side=20))


def test_colours_change_in_the_image_alone_and_by_seed_epoch_and_row(folder: Path) -> None:
    """[B] app. D.6."""
    schedule = replace(SMALL, grayscale=0.3, brightness=0.1255, saturation=(0.5, 1.5), hue=0.2)
    frames, _ = source.open_depth_data(folder, schedule)
    plain, metres = source.center_crop(frames, 0, schedule)
    image, changed_metres = source.training_crop(frames, 0, schedule, 3, 5)
    np.testing.assert_array_equal(changed_metres, metres)
    assert (np.asarray(image) != np.asarray(plain)).any()
    again, _ = source.training_crop(frames, 0, schedule, 3, 5)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))
    for seed, epoch, row in ((4, 5, 0), (3, 6, 0), (3, 5, 1)):
        other = change_colours(plain, schedule, seed, epoch, row)
        assert (np.asarray(other) != np.asarray(image)).any()
    off, _ = source.training_crop(frames, 0, SMALL, 3, 5)
    np.testing.assert_array_equal(np.asarray(off), np.asarray(plain))

    pixel = Image.fromarray(np.full((1, 1, 3), (200, 100, 60), np.uint8))
    results = np.stack([np.asarray(change_colours(pixel, schedule, 0, e, 0))[0, 0] for e in range(2000)]) / 255
    gray = np.ptp(results, axis=1) <= 1 / 255
    assert gray.mean() == pytest.approx(0.3, abs=0.03)  # three standard deviations
    luma = (200 * 0.2989 + 100 * 0.587 + 60 * 0.114) / 255
    added = results[gray, 0] - luma
    assert np.abs(added).max() == pytest.approx(0.1255, abs=0.01)
    hues = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in results[~gray]]) - colorsys.rgb_to_hsv(200, 100, 60)[0]
    assert np.abs((hues + 0.5) % 1 - 0.5).max() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("change", [0.0, 0.07, -0.2, 0.4])
def test_saturation_and_hue_are_those_of_hsv(change: float) -> None:
    x = np.random.default_rng(0).random((8, 9, 3)).astype(np.float32)
    x[0] = x[0, :, :1]  # gray
    hsv = np.apply_along_axis(lambda rgb: colorsys.rgb_to_hsv(*rgb), 2, x.astype(np.float64))
    for found, h, s in (
        (turn_hue(x, change), change, 1.0),
        (scale_saturation(x, 1 + change), 0.0, 1 + change),
    ):
        expected = hsv * (1, s, 1) + (h, 0, 0)
        expected[..., 1] = np.clip(expected[..., 1], 0, 1)
        rgb = np.apply_along_axis(lambda v: colorsys.hsv_to_rgb(v[0] % 1, v[1], v[2]), 2, expected)
        np.testing.assert_allclose(found, rgb, atol=2e-6)


def test_folders_with_splits_are_read(folder: Path) -> None:
    for split, names in (("train", "012"), ("test", "34")):
        (folder / split).mkdir()
        for n in names:
            for suffix in ("jpg", "png"):
                (folder / f"{n}.{suffix}").rename(folder / split / f"{n}.{suffix}")
    train, test = source.open_depth_data(folder, SMALL)
    assert (len(train), len(test)) == (3, 2)
    together = train.sha256()
    (folder / "train-depth").mkdir()
    for path in (folder / "train").glob("*.png"):
        path.rename(folder / "train-depth" / path.name)
    assert source.open_depth_data(folder, SMALL)[0].sha256() == together


def test_nyu_s_two_files_are_read(tmp_path: Path) -> None:
    """MATLAB's layout: columns first, rows of the split counted from 1."""
    rng = np.random.default_rng(0)
    images, depths = rng.integers(0, 256, (3, 20, 30, 3), np.uint8), rng.uniform(1, 9, (3, 20, 30)).astype(np.float32)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["depths"] = images.transpose(0, 3, 2, 1), depths.transpose(0, 2, 1)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[3], [1]]), "testNdxs": np.array([[2]])})
    train, test = source.open_depth_data(tmp_path, SMALL)
    assert (len(train), len(test)) == (2, 1)
    for frames, row, n in ((train, 0, 2), (train, 1, 0), (test, 0, 1)):
        image, metres = frames.frame(row)
        np.testing.assert_array_equal(np.asarray(image), images[n])
        np.testing.assert_array_equal(metres, depths[n])
    assert train.sha256() != test.sha256()
    (tmp_path / "splits.mat").write_bytes(b"no")
    with pytest.raises(UserError, match=r"splits\.mat is not NYU v2's list"):
        source.open_depth_data(tmp_path, SMALL)
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"no")
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1]]), "testNdxs": np.array([[2]])})
    with pytest.raises(UserError, match=r"labeled\.mat cannot be read"):
        source.open_depth_data(tmp_path, SMALL)


def test_depths_of_floats_that_are_none_are_unknown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, depths = rng.integers(0, 256, (2, 20, 30, 3), np.uint8), rng.uniform(1, 9, (2, 20, 30)).astype(np.float32)
    depths[0, :4, 0] = np.nan, np.inf, -np.inf, -2
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["depths"] = images.transpose(0, 3, 2, 1), depths.transpose(0, 2, 1)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[2]]), "testNdxs": np.array([[1]])})
    _, metres = source.open_depth_data(tmp_path, SMALL)[1].frame(0)
    assert metres[:4, 0].tolist() == [0, 0, 0, 0]
    found = depth_metrics(error_sums(depths[0] * np.float32(1.1), metres)[None])
    assert found["pct<1.25"] == 100
    assert found["rel"] == pytest.approx(0.1, abs=1e-6)
    assert np.isfinite(found["rms"])


def test_a_last_step_that_spoils_the_weights_is_no_score(folder: Path, narrow: Embedder, cache: Path) -> None:
    schedule = replace(SMALL, iterations=1, lrs=(1e38,))
    frames, _ = source.open_depth_data(folder, schedule)
    network = DepthNet(narrow.model, schedule.decoder)
    losses = train_network(network, frames, schedule, narrow.preprocessing, seed=0, key="o", device="cpu")
    assert np.isfinite(losses).all()
    with pytest.raises(Diverged, match="no finite depths"):
        predict_all(network, frames, schedule, narrow.preprocessing, "cpu")


def test_test_frames_without_depth_in_their_crops_cannot_be_scored(folder: Path) -> None:
    for path in sorted(folder.glob("*.png")):
        corner = np.zeros((48, 64), np.uint16)
        corner[0, 0] = 2000
        Image.fromarray(corner).save(path)
    settings = {"crop": "32,24", "short_side": "48"}
    with pytest.raises(UserError, match="knows no depth"):
        evaluate("depth", "random", folder, device="cpu", settings=settings, schedule="small")


def test_what_is_wrong_with_depth_is_one_line(folder: Path) -> None:
    train, _ = source.open_depth_data(folder, SMALL)
    label = folder / "0.png"
    good = label.read_bytes()
    for wrong, message in (
        (Image.new("L", (64, 48)), "8 bits a pixel: depth images have 16"),
        (Image.fromarray(np.zeros((48, 64), np.uint16)), "knows no depth at all"),
        (Image.fromarray(np.ones((9, 9), np.uint16)), "is 9 x 9 and its image 64 x 48"),
        (Image.new("RGB", (64, 48)), "pixels of mode RGB"),
    ):
        wrong.save(label)
        with pytest.raises(UserError, match=message):
            train.frame(0)
    label.unlink()
    with pytest.raises(UserError, match=r"1 files are missing, first .*0\.png"):
        source.open_depth_data(folder, SMALL)
    label.write_bytes(good)
    with pytest.raises(UserError, match="no folder"):
        source.open_depth_data(folder / "nowhere", SMALL)
    with pytest.raises(UserError, match="one learning rate"):
        evaluate("depth", "random", folder, device="cpu", settings={"lrs": "1,2"}, schedule="small")
