"""What every protocol does with data, models and options, and the JSON they write."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import encode, picture
from PIL import Image
from torchvision.models import ResNet50_Weights, resnet18
from typer.testing import CliRunner

from zoo.cli import evaluation, main
from zoo.datasets.labelled import open_splits
from zoo.datasets.opening import evaluation_splits, has_split
from zoo.errors import UserError
from zoo.evaluate import context
from zoo.evaluate.baselines import TORCHVISION, open_model
from zoo.evaluate.protocols import PROTOCOLS
from zoo.evaluate.run import evaluate
from zoo.models.registry import ARCHITECTURES, DEFAULT_MODEL

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, start in (("train", 0), ("test", 1)):
        for n, path in enumerate(PHOTOS[start::2]):
            target = tmp_path / "data" / split / f"c{n % 2}"
            target.mkdir(parents=True, exist_ok=True)
            (target / path.name).write_bytes(path.read_bytes())
    return tmp_path / "data"


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_a_result_says_everything_and_is_the_same_again(
    protocol: str, folder: Path, tiny_weights: str, tmp_path: Path
) -> None:
    out = tmp_path / "results" / "r.json"
    first = evaluate(protocol, tiny_weights, folder, out=out)
    assert json.loads(out.read_text()) == first
    again = evaluate(protocol, tiny_weights, folder)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in first.items() if k != "seconds"}
    assert (first["protocol"], first["metric"], first["data"]["classes"]) == (protocol, "top-1", 2)
    low, high = first["interval_95"]
    assert 0 <= low <= first["score"] <= high <= 100
    assert first["data"]["test"]["sha256"] == evaluation_splits(folder)[1].sha256()


def test_cached_features_are_of_these_images(folder: Path, tiny_weights: str, cache: Path) -> None:
    evaluate("knn", tiny_weights, folder)
    before = set(cache.rglob("*.npy"))
    victim = next((folder / "train").rglob("*.jpg"))
    victim.write_bytes(PHOTOS[-1].read_bytes())
    evaluate("knn", tiny_weights, folder)
    assert len(set(cache.rglob("*.npy")) - before) == 1  # the test images are the same


def test_an_unreadable_image_is_named(folder: Path) -> None:
    victim = next((folder / "test").rglob("*.jpg"))
    victim.write_bytes(b"\xff\xd8 no more")
    with pytest.raises(UserError, match=victim.name):
        evaluate("knn", "byol_r18.random", folder)


def test_a_single_parquet_file_is_never_its_own_test(tmp_path: Path) -> None:
    images = [encode(picture(seed=n), "PNG") for n in range(12)]
    pq.write_table(pa.table({"image": images, "label": [n % 2 for n in range(11)] + [2]}), tmp_path / "all.parquet")
    result = evaluate("knn", "byol_r18_mini", tmp_path / "all.parquet")
    sizes = result["data"]["train"]["images"], result["data"]["test"]["images"]
    assert sum(sizes) == 12
    assert min(sizes) > 1
    assert result["data"]["split"].startswith("a fifth")
    again = evaluate("knn", "byol_r18_mini", tmp_path / "all.parquet", seed=1)
    assert again["data"]["test"]["sha256"] != result["data"]["test"]["sha256"]


def test_a_class_with_one_image_and_a_missing_label(tmp_path: Path) -> None:
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 2]  # of the last there is one
    for split in ("train", "test"):
        table = pa.table({"image": [encode(picture(seed=n), "PNG") for n in range(9)], "label": labels})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    for protocol, options in (("knn", {"k": "1"}), ("linear", {"l2": "1e-6"})):
        assert evaluate(protocol, "byol_r18_mini", tmp_path, settings=options)["score"] == 100  # test is train
    table = table.set_column(1, "label", pa.array([*labels[:-1], None], pa.int64()))
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(UserError, match="1 rows have no label"):
        evaluate("knn", "byol_r18_mini", tmp_path)


def test_a_row_without_a_label_or_a_file_without_rows_is_named(tmp_path: Path) -> None:
    images = [encode(picture(seed=n), "PNG") for n in range(4)]
    for labels in ([0.0, 1.0, float("nan"), 0.0], ["a", None, "b", "a"]):
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "all.parquet")
        with pytest.raises(UserError, match="1 rows have no label"):
            open_splits(tmp_path / "all.parquet")
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}).slice(0, 0), tmp_path / "all.parquet")
    with pytest.raises(UserError, match=r"no images in all\.parquet: it has no rows"):
        open_splits(tmp_path / "all.parquet")


def test_splits_are_found_in_every_kind_of_file(tmp_path: Path) -> None:
    sizes = {"train": 3, "val": 2, "test": 4}
    for n, (split, size) in enumerate(sizes.items()):
        pixels = np.random.default_rng(n).integers(0, 256, (size, 8, 8, 3), np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=pixels, labels=np.arange(size) % 2)
    found = open_splits(tmp_path)
    assert found.val is not None
    assert (len(found.train), len(found.val), len(found.test)) == (3, 2, 4)
    (tmp_path / "test.npz").unlink()
    found = open_splits(tmp_path)
    assert (found.val, len(found.test)) == (None, 2)
    (tmp_path / "val.npz").unlink()
    with pytest.raises(UserError, match=r"has no test/ \(or val/\) folder"):
        open_splits(tmp_path)
    assert not has_split("torchvision:CIFAR10:somewhere", "val")
    assert has_split("torchvision:DTD:somewhere", "val")


def test_odd_images_and_names_of_classes_are_scored(tmp_path: Path, tiny_weights: str) -> None:
    photos = [Image.open(path).convert("RGB").resize((40, 30)) for path in PHOTOS[:8]]
    odd = {
        "1.JPEG": photos[0],
        "2.JPG": photos[1].convert("CMYK"),
        "3.PNG": photos[2].convert("RGBA"),
        "4.png": photos[3].convert("L"),
        "5.bmp": photos[4].resize((1, 1)),
        "6.gif": photos[5].convert("P"),
        "7.TIFF": photos[6].convert("1"),
        "8.webp": photos[7],
    }
    for split in ("train", "test"):
        for n, name in enumerate(("猫 größe", 'it\'s "q" | pipe')):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for file, image in list(odd.items())[n::2]:
                image.save(folder / file, "JPEG" if file[0] in "12" else None)
            (folder / "Thumbs.db").write_bytes(b"no image")
    for protocol in ("knn", "linear"):
        result = evaluate(protocol, tiny_weights, tmp_path / "data")
        assert (result["data"]["train"]["images"], result["data"]["classes"]) == (8, 2)
    assert result["score"] == 100  # of its own training images


@pytest.mark.parametrize(
    ("protocol", "settings", "message"),
    [
        ("knn", {"neighbours": "3"}, r"knn has no such option.*of k, temperature"),
        ("knn", {"k": "0"}, "above 0"),
        ("linear", {"l2": "-1,1"}, "from 0 on"),
        ("linear", {"l2": "nan"}, "no finite number"),
        ("knn", {"temperature": "nan"}, "no finite number"),  # the score was that of a guess
        ("knn", {"temperature": "0.07,inf"}, "no finite number"),
        ("knn", {"temperature": ""}, "above 0"),
        ("knn", {"k": ","}, "above 0"),
        ("linear-sgd", {"lr": "nan"}, "no finite number"),
        ("linear-sgd", {"lr": "-1"}, "lr takes values above 0"),  # these four gave a score
        ("linear-sgd", {"epochs": "0"}, "epochs takes values above 0"),
        ("linear-lars", {"epochs": "-3"}, "epochs takes values above 0"),
        ("linear-lars", {"lr": "0.1,0"}, "lr takes values above 0"),
        ("linear-moco", {"batch": "0"}, "batch takes values above 0"),
        ("linear-moco", {"min_area": "2"}, "min_area: give a number above 0 and at most 1, not 2"),
        ("linear-sgd", {"init": "-1"}, "init: give 0 or more"),
        ("semi-supervised", {"lr": "-1"}, "lr: give 0 or more, not -1"),
        ("semi-supervised", {"epochs": "-1"}, "epochs: give 0 or more"),
        ("semi-supervised", {"batch": "-5"}, "batch: give 0 or more"),
        ("semi-supervised", {"min_area": "0"}, "min_area"),
        ("transfer", {"size": "-5"}, "size: give 0 or more"),
        ("transfer", {"weight_decay": "0,-1"}, "weight_decay: give 0 or more"),
        ("transfer", {"steps": "-1"}, "steps: give 0 or more"),
        ("transfer", {"lr": "-0.1"}, "lr: give 0 or more"),
        ("semi-supervised", {"percent": "nan"}, "no finite number"),
        ("transfer", {"lr": "nan"}, "no finite number"),
        ("linear", {"tolerance": "0"}, "tolerance above 0"),
        ("transfer", {"l2": ""}, "from 0 on"),
        ("transfer", {"iterations": "0"}, "at least 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line(
    protocol: str,
    settings: dict[str, str],
    message: str,
    tiles: Path,
    tiny_weights: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context, "open_model", None)  # which takes seconds
    with pytest.raises(UserError, match=message):
        evaluate(protocol, tiny_weights, tiles, settings=settings)


@pytest.mark.parametrize("protocol", ["knn", "linear", "linear-sgd", "transfer", "semi-supervised"])
def test_data_without_images_is_refused_before_a_model_is_opened(
    protocol: str, tmp_path: Path, tiny_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "open_model", None)
    with pytest.raises(UserError, match=r"has no train/ folder .*: put the images of each class into train/CLASS/"):
        evaluate(protocol, tiny_weights, tmp_path)


def test_an_onnx_file_is_evaluated(tiles: Path) -> None:
    """It has no torch module whose parameters could be counted."""
    model = Path(__file__).parents[2] / "compat" / "v0_2" / "model.onnx"
    result = evaluate("knn", str(model), tiles)
    assert result["score"] > 25, "four classes"
    assert result["model"]["backend"] == "onnx"
    assert "parameters" not in result["model"]


def test_knn_takes_the_k_it_is_given(tiles: Path, tiny_weights: str, tmp_path: Path) -> None:
    result = evaluate("knn", tiny_weights, tiles, settings={"k": "3", "temperature": "0.5"})
    assert (result["parameters"]["k"], result["parameters"]["temperature"]) == (3, 0.5)
    with pytest.raises(UserError, match=r"--out .* is a folder"):
        evaluate("knn", tiny_weights, tiles, out=tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("supervised", r"no supervised weights in .*resnet50-0676ba61\.pth and run `zoo convert .* --from torch"),
        ("byol_r18.nothing", "nothing"),
        ("/no/f.onnx", "f.onnx"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(model: str, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        evaluate("knn", model, folder)
    assert "\n" not in str(error.value)


def test_the_supervised_baseline_is_torchvision_s_file_converted_as_the_line_says(folder: Path, tmp_path: Path) -> None:
    assert ResNet50_Weights.IMAGENET1K_V1.url == TORCHVISION
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    words = [
        "convert",
        str(tmp_path / "resnet18.pth"),
        "--from",
        "torch",
        "--out",
        str(tmp_path / "cache" / "supervised"),
    ]
    assert CliRunner().invoke(main.app, [*words, "--input-size", "32", "--resize", "36"]).exit_code == 0
    result = evaluate("knn", "supervised", folder)
    assert result["model"]["parameters"] == ARCHITECTURES["r18"].parameters  # by which the report knows the network
    assert result["model"]["name"] == "resnet18"
    by_path = evaluate("knn", str(tmp_path / "cache" / "supervised"), folder)
    assert (by_path["score"], by_path["data"]) == (result["score"], result["data"])
    assert by_path["metrics"] == result["metrics"]


def test_the_command_offers_every_protocol() -> None:
    assert get_args(evaluation.Protocol) == tuple(PROTOCOLS)
    for module in PROTOCOLS.values():
        assert callable(importlib.import_module(module).evaluate)


def test_random_alone_is_the_default_model_without_weights() -> None:
    assert open_model("random").weights_info["model"] == f"{DEFAULT_MODEL}.random"
