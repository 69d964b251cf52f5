"""Transfer: the table of data sets read from small copies of their real layouts, and both modes on a folder."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image
from scipy.io import savemat

from zoo.datasets import transfer_sets, voc_classes
from zoo.datasets.labelled import LabelledImages, hold_out_count, hold_out_per_class, open_splits
from zoo.datasets.transfer_sets import TRANSFER_SETS, open_transfer_set
from zoo.errors import UserError
from zoo.evaluate.baselines import open_model
from zoo.evaluate.finetune import transfer
from zoo.evaluate.finetune.transfer import GRIDS
from zoo.evaluate.run import evaluate
from zoo.report.tables import published

_SEEDS = count()


def image(path: Path) -> Path:
    """Write a picture that no other file has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(picture(40, 30, next(_SEEDS)), "JPEG"))
    return path


def lines(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")


def food101(root: Path) -> None:
    base = root / "food-101"
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        names = {c: [f"{c}/{n}" for n in numbers] for c in ("pie", "soup")}
        lines(base / "meta" / f"{split}.json", json.dumps(names))
        for name in names["pie"] + names["soup"]:
            image(base / "images" / f"{name}.jpg")


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    for n, split in enumerate(("train", "val", "test")):
        lines(base / "labels" / f"{split}1.txt", f"banded/a{n}.jpg", f"woven/b{n}.jpg")
        image(base / "images" / "banded" / f"a{n}.jpg")
        image(base / "images" / "woven" / f"b{n}.jpg")


def aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    lines(base / "variants.txt", "707-320", "A300B4")
    for n, split in enumerate(("train", "val", "test")):
        lines(base / f"images_variant_{split}.txt", f"{n}0 707-320", f"{n}1 A300B4")
        for k in (0, 1):
            image(base / "images" / f"{n}{k}.jpg")


def pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    for split, numbers in (("trainval", (1, 2, 3)), ("test", (4, 5))):
        lines(
            base / "annotations" / f"{split}.txt",
            *(f"{b}_{n} {k} 1 1" for k, b in ((1, "cat"), (2, "dog")) for n in numbers),
        )
        for n in numbers:
            image(base / "images" / f"cat_{n}.jpg")
            image(base / "images" / f"dog_{n}.jpg")


def cars(root: Path) -> None:
    base = root / "stanford_cars"
    for folder, file in (
        ("cars_train", base / "devkit" / "cars_train_annos.mat"),
        ("cars_test", base / "cars_test_annos_withlabels.mat"),
    ):
        names = [f"{n:05d}.jpg" for n in range(4)]
        for name in names:
            image(base / folder / name)
        rows = np.array(list(zip(names, (1, 2, 1, 2), strict=True)), [("fname", object), ("class", object)])
        file.parent.mkdir(parents=True, exist_ok=True)
        savemat(file, {"annotations": rows})
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], object)})


def sun397(root: Path) -> None:
    base = root / "SUN397"
    lines(base / "ClassName.txt", "/a/abbey", "/a/apartment_building/outdoor")
    for split, start in (("Training_01.txt", 0), ("Testing_01.txt", 3)):
        names = [
            f"/a/{c}/sun_{n}.jpg" for c in ("abbey", "apartment_building/outdoor") for n in range(start, start + 3)
        ]
        lines(base / split, *names)
        for name in names:
            image(base / name[1:])


def voc2007(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2007"
    for n, split in enumerate(("train", "val", "test")):
        names = [f"{n}{k}" for k in range(2)]
        lines(base / "ImageSets" / "Main" / f"{split}.txt", *names)
        for name in names:
            image(base / "JPEGImages" / f"{name}.jpg")
            things = [("dog", 0), ("dog", 1), ("cat", 1)]
            text = "".join(f"<object><name>{c}</name><difficult>{d}</difficult></object>" for c, d in things)
            lines(base / "Annotations" / f"{name}.xml", f"<annotation>{text}</annotation>")


def birdsnap(root: Path) -> None:
    for split in ("train", "test"):
        for n in range(4):
            image(root / "birdsnap" / split / f"bird{n % 2}" / f"{n}.jpg")


def caltech101(root: Path) -> None:
    for c in ("BACKGROUND_Google", "ant"):
        for n in range(33):
            image(root / "caltech101" / "101_ObjectCategories" / c / f"image_{n:04d}.jpg")


LAYOUTS = {f.__name__: f for f in (food101, dtd, aircraft, pets, cars, sun397, voc2007, birdsnap, caltech101)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_data_set_is_read_with_its_split_rule(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    splits = open_transfer_set(name, tmp_path, seed=0)
    assert splits.val is not None
    assert min(len(splits.train), len(splits.val), len(splits.test)) > 0
    assert splits.train.classes == splits.val.classes == splits.test.classes
    assert splits.test.image(0).mode == "RGB"
    parts = (splits.train, splits.val, splits.test)
    assert len({part.sha256 for part in parts}) == 3
    pictures = [part.image(row).tobytes() for part in parts for row in range(len(part))]
    assert len(set(pictures)) == len(pictures)  # no image is in two splits
    if name == "voc2007":
        row = splits.train.labels[0]
        assert [row[voc_classes.CLASSES.index(c)] for c in ("dog", "cat", "cow")] == [1, -1, 0]
    if name == "caltech101":
        assert (len(splits.train), len(splits.val), len(splits.test)) == (50, 10, 6)
    if name == "sun397":
        assert splits.test.classes[1] == "apartment_building/outdoor"
        assert splits.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_validation_images_are_held_out_by_class_or_in_proportion() -> None:
    """The rules of [B] app. D.1 and table 10 at the official sizes."""
    for classes, size, each in ((397, 50, 10), (37, 100, 20), (102, 30, 5)):  # SUN397, Pets, Caltech-101
        labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), size))
        kept, held = hold_out_per_class(labels, each, 0)
        assert set(np.bincount(labels[held]).tolist()) == {each}
        assert sorted([*kept, *held]) == list(range(len(labels)))
        assert (hold_out_per_class(labels, each, 0)[1] == held).all()
        assert (hold_out_per_class(labels, each, 1)[1] != held).any()
    for images, classes, total in ((8_144, 196, 1_650), (47_386, 500, 4_981), (50_000, 100, 5_067)):
        labels = np.random.default_rng(0).integers(0, classes, images)
        kept, held = hold_out_count(labels, total, 0)
        assert len(held) == total
        assert sorted([*kept, *held]) == list(range(images))
        expected = np.bincount(labels) * total / images
        assert np.abs(np.bincount(labels[held], minlength=classes) - expected).max() < 1
        assert (hold_out_count(labels, total, 0)[1] == held).all()
        assert (hold_out_count(labels, total, 1)[1] != held).any()
    kept, held = hold_out_count(np.array([0, 1, 1, 1, 2]), 2, 0)
    assert len(held) == 2
    assert set(held.tolist()) <= {1, 2, 3}  # a class with one image keeps it
    with pytest.raises(UserError, match="cannot be held out"):
        hold_out_count(np.array([0, 1, 1]), 2, 0)


OFFICIAL = {  # images of train and classes; validation images of [B] table 10
    "food101": (75_750, 101, 7_575),
    "cifar10": (50_000, 10, 5_000),
    "cifar100": (50_000, 100, 5_067),
    "birdsnap": (47_386, 500, 4_981),
    "sun397": (19_850, 397, 3_970),
    "cars": (8_144, 196, 1_650),
    "pets": (3_680, 37, 740),
    "caltech101": (9_144, 102, 510),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_counts_of_validation_images_are_the_paper_s(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readers run on labels of the official sizes; files and images are replaced."""
    images, classes, expected = OFFICIAL[name]
    labels = np.sort(np.arange(images, dtype=np.int64) % classes)
    names = [f"c{n}" for n in range(classes)]

    def labelled(_: type, name: str, labels: np.ndarray, classes: list[str], read: object) -> LabelledImages:
        return LabelledImages(name, labels, classes, lambda row: Image.new("RGB", (1, 1)), name)

    samples = [("image.jpg", label) for label in labels.tolist()]
    found = SimpleNamespace(_samples=samples, classes=names, targets=labels.tolist(), data=None)
    monkeypatch.setattr(LabelledImages, "from_bytes", classmethod(labelled))
    monkeypatch.setattr(transfer_sets, "_load_torchvision", lambda *_, **__: found)
    monkeypatch.setattr(transfer_sets, "_open_folder", lambda path: labelled(LabelledImages, name, labels, names, None))
    lines(tmp_path / "SUN397" / "ClassName.txt", *(f"/c/{one}" for one in names))
    for file in ("Training_01.txt", "Testing_01.txt"):
        lines(tmp_path / "SUN397" / file, *(f"/c/{names[label]}/image.jpg" for label in labels))
    splits = TRANSFER_SETS[name].splits(tmp_path, 0)
    assert splits.val is not None
    assert len(splits.val) == expected
    assert len(splits.train) == (2_550 if name == "caltech101" else images - expected)
    if name in ("sun397", "pets", "caltech101"):
        each = {"sun397": 10, "pets": 20, "caltech101": 5}[name]
        assert set(np.bincount(splits.val.labels).tolist()) == {each}


def test_fine_tuned_is_tested_at_256_and_linear_at_224(tiny_weights: str) -> None:
    """[B] app. D.2 and D.3."""
    embedder = open_model(tiny_weights, "cpu")
    for mode, resize in (("linear", 224), ("fine-tuned", 256)):
        found = transfer._with_size(embedder, 224, mode).preprocessing
        assert (found.input_size, found.resize) == (224, resize)
        assert transfer._with_size(embedder, 0, mode) is embedder


def test_the_table_is_the_seeds() -> None:
    table = next(t for t in published() if t["id"] == "transfer-linear")
    assert [s.title for s in TRANSFER_SETS.values()] == table["columns"]
    metrics = {s.title: s.metric for s in TRANSFER_SETS.values()}
    assert [t for t, m in metrics.items() if m == "mean per class"] == ["Aircraft", "Pets", "Caltech-101", "Flowers"]
    assert [t for t, m in metrics.items() if m == "11-point mAP"] == ["VOC2007"]
    grid = GRIDS["published"]
    assert (grid.steps, grid.batch, len(grid.lr), len(grid.weight_decay)) == (20_000, 256, 7, 8)
    assert (grid.lr[0], grid.lr[-1], grid.weight_decay[:2]) == (1e-4, 0.1, (0.0, 1e-6))


@pytest.mark.parametrize("name", TRANSFER_SETS)
def test_a_data_set_that_is_not_there_says_which_files_belong_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        open_transfer_set(name, tmp_path / "data", seed=0)
    message = str(error.value)
    assert "\n" not in message
    assert str(tmp_path / "data") in message
    assert "by hand" in message or "download=True" in message
    with pytest.raises(UserError, match="needs --root"):
        open_transfer_set(name, None, seed=0)


def test_linear_and_fine_tuned_on_a_folder(tiles: Path, tiny_weights: str, cache: Path, tmp_path: Path) -> None:
    linear = evaluate("transfer", tiny_weights, tiles, settings={"l2": "1e-4,1e-2,1"})
    assert (linear["metric"], linear["parameters"]["mode"]) == ("top-1", "linear")
    assert set(linear["parameters"]["validation_score_by_l2"]) == {"0.0001", "0.01", "1"}
    assert linear["score"] > 25
    settings = {"mode": "fine-tuned", "metric": "mean per class", "steps": "3", "batch": "16", "lr": "0.02,0.05"}
    tuned = evaluate("transfer", tiny_weights, tiles, settings=settings)
    assert tuned["metric"] == "mean per class"
    assert len(tuned["parameters"]["validation_score"]) == 2
    assert tuned["interval"].startswith("bootstrap")
    assert tuned["data"]["val"]["images"] + tuned["data"]["train"]["images"] == 64
    with_val = tmp_path / "tiles"
    shutil.copytree(tiles, with_val)
    shutil.copytree(tiles / "test", with_val / "val")
    again = evaluate("transfer", tiny_weights, with_val, settings={"l2": "1e-2", "size": "24"})
    assert again["data"]["val"]["images"] == 16
    assert again["parameters"]["size"] == 24


def test_other_validation_images_choose_anew(
    tiles: Path, tiny_weights: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores that choose are kept in the cache: those of other validation images are not taken for these ones'."""
    data = tmp_path / "tiles"
    shutil.copytree(tiles, data)
    shutil.copytree(tiles / "test", data / "val")
    scored: list[str] = []
    predict = transfer.predict_logits

    def predicting(model: Any, images: LabelledImages, *others: Any) -> Any:
        scored.append(images.name)
        return predict(model, images, *others)

    monkeypatch.setattr(transfer, "predict_logits", predicting)
    settings = {"mode": "fine-tuned", "steps": "1", "batch": "8", "lr": "0.02,0.05"}
    for change in (False, False, True):
        if change:
            first, second = sorted((data / "val").iterdir())[:2]
            (first / "04.png").rename(second / "moved.png")
        evaluate("transfer", tiny_weights, data, settings=settings)
    assert scored == ["tiles/val", "tiles/val", "tiles/test", "tiles/test", "tiles/val", "tiles/val", "tiles/test"]


def test_a_metric_of_several_labels_needs_several_labels(tiles: Path, tiny_weights: str, cache: Path) -> None:
    with pytest.raises(UserError, match="images with several labels"):
        evaluate("transfer", tiny_weights, tiles, settings={"metric": "11-point mAP", "l2": "1"})


def test_a_test_class_that_train_lacks_is_named(tiles: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiles, data)
    (data / "test" / "c3").rename(data / "test" / "unknown")
    with pytest.raises(UserError, match="'unknown'"):
        open_splits(data)
    shutil.rmtree(data / "test" / "unknown")
    shutil.rmtree(data / "test" / "c0")  # a test split may lack a class; labels stay those of train
    assert set(open_splits(data).test.labels.tolist()) == {1, 2}


@pytest.mark.parametrize("others", [[0, 3], [0, 1, 2]])
def test_a_number_that_no_training_image_has_is_refused(others: list[int], tmp_path: Path) -> None:
    """The names 0 to 5 are there in train, and 3 is nobody's: each answer for it would count as wrong."""
    rng = np.random.default_rng(0)
    for split, labels in (("train", [0, 5, 0, 5]), ("test", others)):
        pixels = rng.integers(0, 256, (len(labels), 4, 4, 3), np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=pixels, labels=np.array(labels))
    with pytest.raises(UserError, match=rf"test has images of '{others[1]}', and .*train has none"):
        open_splits(tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "classes", "expected"),
    [
        (["-1", "0", "3"], ["3", "0"], ["-1", "0", "3"], [2, 1]),  # numbers, of which one is negative in train alone
        (["1", "2", "x"], ["2", "1"], ["1", "2", "x"], [1, 0]),  # names in train, numbers in test
        (["1", "2", "7"], ["7", "7"], [*"01234567"], [7, 7]),
        (["cat", "dog"], ["dog"], ["cat", "dog"], [1]),
        (["007", "7"], ["7"], ["007", "7"], [1]),
    ],
)
def test_labels_of_two_lists_mean_the_same(
    train: list[str], test: list[str], classes: list[str], expected: list[int], tmp_path: Path
) -> None:
    picture(8, 8).save(tmp_path / "a.png")
    for split, labels in (("train", train), ("test", test)):
        lines = ["path,label", *(f"a.png,{label}" for label in labels)]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    splits = open_splits(tmp_path / "{split}.csv")
    assert splits.train.classes == splits.test.classes == classes
    assert [classes[n] for n in splits.train.labels] == train
    assert splits.test.labels.tolist() == expected


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_label_is_no_class(empty: str, tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text(f"path,label\na.png,cat\na.png,{empty}\na.png,dog\na.png,{empty}\n")
    with pytest.raises(UserError, match="2 rows have no label"):
        open_splits(tmp_path / "list.csv")


def test_test_images_that_are_in_train_are_counted(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "tiles"
    shutil.copytree(tiles, data)
    open_splits(data)
    assert capsys.readouterr().err == ""
    for n, path in enumerate(sorted((data / "test" / "c1").iterdir())[:3]):
        shutil.copy(path, data / "train" / "c2" / f"other{n}.png")
    open_splits(data)
    assert "3 of 16 images of tiles/test are in tiles/train too, byte for byte" in capsys.readouterr().err
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "one.npz", images=np.concatenate([pixels] * 4), labels=np.tile(np.arange(20) % 2, 4))
    test = open_splits(tmp_path / "one.npz").test
    copies = int(capsys.readouterr().err.split()[0])  # of the fifth that is held out, few have all copies in it
    assert 0.8 * len(test) < copies <= len(test) == 16
