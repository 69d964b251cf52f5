"""Mean IoU against torchmetrics and scikit-learn, training on real photographs, and bad label images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated import label_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex

from zoo.errors import UserError
from zoo.evaluate import context
from zoo.evaluate.dense import finetune
from zoo.evaluate.dense.augment import AnnotatedImages
from zoo.evaluate.dense.schedules import SEGMENTATION
from zoo.evaluate.errors import Diverged
from zoo.evaluate.run import evaluate
from zoo.evaluate.segmentation import data as source
from zoo.evaluate.segmentation.iou import confusion, iou_by_class, mean_iou
from zoo.evaluate.segmentation.segmentation import FCN, predict_all, train_network
from zoo.inference.embedder import Embedder

SMALL = replace(SEGMENTATION["small"], short_side=0, crop=64, batch_size=4, width=32, scale=(1.0, 1.0))


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 7))
@settings(max_examples=20, deadline=None)
def test_mean_iou_is_torchmetrics_and_scikit_learn(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(0, classes, (2, 3, 9, 11))
    truth[:, 0], truth[0, 0, 0] = np.arange(11) % classes, 255  # every class occurs; a void pixel
    matrices = np.stack([confusion(t, p, classes, 255) for t, p in zip(truth, prediction, strict=True)])
    kept = truth != 255
    expected = 100 * jaccard_score(truth[kept], prediction[kept], average="macro")
    assert mean_iou(matrices) == pytest.approx(expected, abs=1e-9)
    index = MulticlassJaccardIndex(classes, average="macro", ignore_index=255)
    theirs = index(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert mean_iou(matrices) == pytest.approx(100 * float(theirs), abs=1e-4)  # float32


def test_a_class_that_is_nowhere_does_not_count() -> None:
    matrix = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3, 255)
    assert np.isnan(iou_by_class(matrix)[2])
    assert mean_iou(matrix[None]) == pytest.approx(50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    label_images(data, "train", range(4), void=9)
    label_images(data, "val", range(4, 6), void=9)
    label_images(data, "test", range(6, 8), void=9)
    return data


def test_it_can_learn_real_photographs_by_heart(folder: Path, narrow: Embedder) -> None:
    schedule = replace(SMALL, iterations=80, void=9)
    images = source.open_segmentation_data(folder, schedule)["train"]
    torch.manual_seed(0)
    network = FCN(narrow.model, 3, width=32, dilation=1)
    losses = train_network(network, images, schedule, narrow.preprocessing, lr=0.1, seed=0, key="o", device="cpu")
    assert np.mean(losses[-4:]) < 0.15 * np.mean(losses[:2])
    assert mean_iou(predict_all(network, images, schedule, narrow.preprocessing, 3, "cpu")) > 85


def test_a_last_step_that_spoils_the_weights_is_no_score(folder: Path, narrow: Embedder, cache: Path) -> None:
    """The loss before the only step is finite: the argmax of NaN would be class 0, everywhere."""
    schedule = replace(SMALL, iterations=1, void=9)
    images = source.open_segmentation_data(folder, schedule)["train"]
    network = FCN(narrow.model, 3, width=8, dilation=1)
    losses = train_network(network, images, schedule, narrow.preprocessing, lr=1e38, seed=0, key="o", device="cpu")
    assert np.isfinite(losses).all()
    with pytest.raises(Diverged, match=r"no finite labels of .*0\.jpg: give a smaller learning rate"):
        predict_all(network, images, schedule, narrow.preprocessing, 3, "cpu")


def test_the_command_chooses_a_learning_rate_and_a_kill_changes_nothing(
    folder: Path, narrow: Embedder, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "open_model", lambda model, device: narrow)
    settings = {"iterations": "2", "batch_size": "2", "crop": "32", "void": "9", "short_side": "32", "lrs": "0.01,0.1"}
    settings |= {"width": "8", "seeds": "2"}
    out, seeded, calls = tmp_path / "r.json", finetune.seeded, []

    def killed(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:  # in the second learning rate
            raise KeyboardInterrupt
        return seeded(*args)

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "seeded", killed)
        patch.setattr(finetune, "SECONDS_PER_CHECKPOINT", 0.0)
        with pytest.raises(KeyboardInterrupt):
            evaluate("segment", "random", folder, out=out, device="cpu", settings=settings, schedule="small")
    assert not out.exists()
    assert len(list((cache / "tuning").glob("*.pt"))) == len(list((cache / "evaluations").iterdir())) == 1
    first = evaluate("segment", "random", folder, out=out, device="cpu", settings=settings, schedule="small")
    assert json.loads(out.read_text()) == json.loads(json.dumps(first))
    assert (first["metric"], first["data"]["classes"], first["data"]["test"]["images"]) == ("mIoU", 3, 2)
    assert first["parameters"]["lr_chosen_on"] == "the validation split"
    assert set(first["parameters"]["validation_mIoU_by_lr"]) == {"0.01", "0.1"}
    assert len(first["details"]["scores"]) == 2
    assert "--schedule small" in first["command"]
    assert not list((cache / "tuning").iterdir())
    for kept in (cache / "evaluations").iterdir():
        kept.unlink()
    whole = evaluate("segment", "random", folder, device="cpu", settings=settings, schedule="small")
    assert whole | {"seconds": 0} == first | {"seconds": 0}


def test_without_a_validation_split_a_tenth_of_training_chooses(folder: Path) -> None:
    found = source.open_segmentation_data(folder, SMALL)
    del found["val"]
    train, held, where = source.learning_rate_splits(found, 0)
    assert (len(train), len(held), where) == (3, 1, "a tenth of the training split")
    assert not set(train.images) & set(held.images)


def test_a_crop_moves_image_and_labels_alike() -> None:
    """Labels that are the image's own red channel stay so, wherever the crop lies."""
    values = np.arange(40 * 30, dtype=np.uint8).reshape(30, 40) % 200
    image = Image.fromarray(np.stack([values] * 3, axis=2))
    for row in range(20):
        for side in (24, 50):
            schedule = replace(SMALL, crop=side)
            cropped, labels, (width, height) = source.random_crop(image, values.astype(np.int64), schedule, 1, 0, row)
            red = np.asarray(cropped)[:, :, 0]
            assert (width, height) == (min(side, 40), min(side, 30))
            np.testing.assert_array_equal(red[:height, :width], labels[:height, :width])
            assert (labels[height:] == source.IGNORE_INDEX).all()
            assert (labels[:, width:] == source.IGNORE_INDEX).all()
    crops = {
        source.random_crop(image, values.astype(np.int64), replace(SMALL, crop=16), 1, e, 0)[1].tobytes()
        for e in range(9)
    }
    assert len(crops) > 5  # every epoch another one


def test_the_scale_stays_in_its_range() -> None:
    schedule = replace(SMALL, crop=400, scale=(0.5, 2.0))
    image, labels = Image.new("RGB", (100, 100)), np.zeros((100, 100), np.int64)
    widths = [source.random_crop(image, labels, schedule, 0, 0, row)[2][0] for row in range(60)]
    assert 50 <= min(widths) < 70
    assert 180 < max(widths) <= 200


def test_a_voc_devkit_is_read(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    label_images(root, "JPEGImages", range(3))
    (root / "JPEGImages-labels").rename(root / "SegmentationClass")
    for n in range(3):  # VOC's label images have a palette
        path = root / "SegmentationClass" / f"{n}.png"
        image = Image.fromarray(np.asarray(Image.open(path)))
        image.putpalette([7] * 768)
        image.save(path)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("0\n1\n")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2\n")
    found = source.open_segmentation_data(tmp_path, replace(SMALL, train="train"))
    assert (len(found["train"]), len(found["test"])) == (2, 1)
    assert source.count_classes(found, 255) == 3
    with pytest.raises(UserError, match="SegmentationClassAug"):
        source.open_segmentation_data(tmp_path, SEGMENTATION["byol"])


def test_what_is_wrong_with_labels_is_one_line(folder: Path) -> None:
    found = source.open_segmentation_data(folder, SMALL)
    with pytest.raises(UserError, match=r"label 9, the training split none above 2: .* --set void=9"):
        source.count_classes({"train": _without_void(folder), "test": found["test"]}, 255)
    with pytest.raises(UserError, match="fewer than two labels"):
        source.count_classes({"train": _of_one_label(folder)}, 255)
    label_images(folder, "train", range(4), void=9)
    label = folder / "train-labels" / "2.png"
    good = label.read_bytes()
    Image.new("L", (10, 10)).save(label)
    with pytest.raises(UserError, match=r"2\.png is 10 x 10 and its image 64 x 48"):
        source.count_classes(found, 9)
    Image.new("RGB", (64, 48)).save(label)
    with pytest.raises(UserError, match=r"2\.png cannot be used as an annotation \(unsupported: pixels of mode RGB"):
        source.count_classes(found, 9)
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(label)
    with pytest.raises(UserError, match="16 bits a pixel: label images have 8"):
        source.count_classes(found, 9)
    label.write_bytes(good[:40])
    with pytest.raises(UserError, match="cannot be used as an annotation"):
        source.count_classes(found, 9)
    label.unlink()
    with pytest.raises(UserError, match=r"1 files are missing, first .*2\.png"):
        source.open_segmentation_data(folder, SMALL)
    label.write_bytes(good)
    (folder / "train" / "1.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(UserError, match=r"1\.jpg cannot be read"):
        source.count_classes(source.open_segmentation_data(folder, SMALL), 9)
    with pytest.raises(UserError, match=r"neither train/ and train-labels/"):
        source.open_segmentation_data(folder / "test", SMALL)
    with pytest.raises(UserError, match="no schedule 'tiny': one of byol, small"):
        evaluate("segment", "random", folder, device="cpu", schedule="tiny")


def test_a_batch_without_a_label_teaches_nothing_and_is_no_divergence(folder: Path, narrow: Embedder) -> None:
    images = _without_void(folder)
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(images.annotations[1])
    network = FCN(narrow.model, 3, width=8, dilation=2)
    schedule = replace(SMALL, batch_size=1, iterations=len(images))
    losses = train_network(network, images, schedule, narrow.preprocessing, lr=0.01, seed=0, key="void", device="cpu")
    assert np.isfinite(losses).all()
    assert losses.count(0.0) == 1


def test_a_split_without_any_label_cannot_be_scored(folder: Path) -> None:
    found = source.open_segmentation_data(folder, SMALL)
    for path in found["test"].annotations:
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    with pytest.raises(UserError, match="test has no labelled pixel"):
        source.count_classes(found, 9)


def test_label_images_of_one_bit_are_two_classes(folder: Path) -> None:
    _with_labels(folder, lambda labels: labels == 2)
    (folder / "train-labels" / "0.png").rename(folder / "train-labels" / "0.PNG")
    images = source.open_segmentation_data(folder, SMALL)["train"]
    assert source.count_classes({"train": images}, 255) == 2
    assert {images.read(row)[1].dtype for row in range(4)} == {np.dtype(np.uint8)}


def _without_void(folder: Path) -> AnnotatedImages:
    return _with_labels(folder, lambda labels: np.where(labels == 9, 0, labels))


def _of_one_label(folder: Path) -> AnnotatedImages:
    return _with_labels(folder, np.zeros_like)


def _with_labels(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> AnnotatedImages:
    for path in (folder / "train-labels").glob("*.png"):
        Image.fromarray(change(np.array(Image.open(path)))).save(path)
    return source.open_segmentation_data(folder, SMALL)["train"]
