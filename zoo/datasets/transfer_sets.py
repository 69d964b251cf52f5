"""The twelve data sets of BYOL's transfer tables ([B] table 3 and app. D): layout, splits and metric of each.

Nothing is downloaded here: ``zoo evaluate transfer --data NAME --root ROOT`` reads the folder ROOT in torchvision's
layout, and says what is missing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from zoo.datasets import voc_classes
from zoo.datasets.labelled import (
    LabelledImages,
    LabelledSplits,
    hold_out_count,
    hold_out_per_class,
    stratified_split,
)
from zoo.datasets.opening import open_dataset
from zoo.errors import UserError
from zoo.transforms.image_bytes import read_bytes

Ints = np.typing.NDArray[np.int64]


@dataclass(frozen=True)
class TransferSet:
    """One data set of the tables.

    Attributes:
        title: its column in the tables.
        metric: key of ``zoo.evaluate.metrics.METRICS``.
        rule: how it is split; where there is no official validation split, images of train are held out as in [B].
        fetch: how to get it; ``{root}`` is the folder.
        splits: reads it from (root, seed).
    """

    title: str
    metric: str
    rule: str
    fetch: str
    splits: Callable[[Path, int], LabelledSplits]


def open_transfer_set(name: str, root: Path | None, seed: int) -> LabelledSplits:
    """Open the splits of a key of ``TRANSFER_SETS``.

    Raises:
        UserError: there is no ``root``, or files are missing; the message says which files belong where.
    """
    entry = TRANSFER_SETS[name]
    if root is None:
        raise UserError(f"--data {name} needs --root, the folder that holds it; {entry.fetch.format(root='ROOT')}")
    try:
        return entry.splits(root, seed)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:120]
        raise UserError(
            f"{entry.title} is not complete under {root} ({why}): {entry.fetch.format(root=root)}"
        ) from None


def _download(call: str) -> str:
    return f'fetch it with `python -c "from torchvision.datasets import *; {call}, download=True)"`'


def _load_torchvision(name: str, root: Path, **arguments: str | int) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, name)(root, **arguments)


def _open_files(
    name: str, paths: Sequence[str | Path], labels: Sequence[int], classes: Sequence[str]
) -> LabelledImages:
    if not paths:
        raise RuntimeError("no images in its lists")
    kept = [Path(p) for p in paths]
    return LabelledImages.from_bytes(name, np.array(labels, np.int64), list(classes), lambda row: read_bytes(kept[row]))


HoldOut = Callable[[Ints, int], tuple[Ints, Ints]]  # (labels, seed) -> the rows kept, the rows held out


def _tenth(labels: Ints, seed: int) -> tuple[Ints, Ints]:
    held, kept = stratified_split(labels, 0.1, seed)
    return kept, held


def _per_class(count: int) -> HoldOut:
    return lambda labels, seed: hold_out_per_class(labels, count, seed)


def _count_of(count: int, official: int) -> HoldOut:
    """Hold ``count`` images out of the ``official`` ones, in proportion where some are missing."""

    def hold_out(labels: Ints, seed: int) -> tuple[Ints, Ints]:
        return hold_out_count(labels, max(1, round(count * len(labels) / official)), seed)

    return hold_out


def _hold_out_val(train: LabelledImages, test: LabelledImages, hold_out: HoldOut, seed: int) -> LabelledSplits:
    """Hold images out of train, where there is no official validation split."""
    kept, held = hold_out(train.labels, seed)
    return LabelledSplits(train.subset(kept, train.name), train.subset(held, f"{train.name}, held out"), test)


def _split_opener(set_: str, class_: str, **fixed: str | int) -> Callable[[str, Path], LabelledImages]:
    """Return a function that opens a split of a torchvision class which keeps its files and labels in lists."""

    def open_split(split: str, root: Path) -> LabelledImages:
        found = _load_torchvision(class_, root, split=split, **fixed)
        name = f"{set_}/{split}"
        if hasattr(found, "_samples"):
            paths, labels = zip(*found._samples, strict=True)
            return _open_files(name, paths, labels, found.classes)
        paths = found._images if hasattr(found, "_images") else found._image_files
        classes = getattr(found, "classes", None) or [str(n) for n in range(max(found._labels) + 1)]
        return _open_files(name, paths, found._labels, classes)

    return open_split


def _with_official_val(set_: str, class_: str, **fixed: str | int) -> Callable[[Path, int], LabelledSplits]:
    """Return a function that opens torchvision's train, val and test."""
    split = _split_opener(set_, class_, **fixed)
    return lambda root, seed: LabelledSplits(split("train", root), split("val", root), split("test", root))


def _with_held_out_val(
    set_: str, class_: str, hold_out: HoldOut, train: str = "train", **fixed: str | int
) -> Callable[[Path, int], LabelledSplits]:
    """Return a function that opens torchvision's train and test."""
    split = _split_opener(set_, class_, **fixed)
    return lambda root, seed: _hold_out_val(split(train, root), split("test", root), hold_out, seed)


def _open_cifar(set_: str, class_: str, hold_out: HoldOut) -> Callable[[Path, int], LabelledSplits]:
    def open_split(root: Path, train: bool) -> LabelledImages:
        found = _load_torchvision(class_, root, train=train)

        def png(row: int) -> bytes:  # lossless; so that one decoder reads all images
            buffer = io.BytesIO()
            Image.fromarray(found.data[row]).save(buffer, "PNG", compress_level=1)
            return buffer.getvalue()

        name = f"{set_}/{'train' if train else 'test'}"
        return LabelledImages.from_bytes(name, np.array(found.targets, np.int64), list(found.classes), png)

    return lambda root, seed: _hold_out_val(open_split(root, True), open_split(root, False), hold_out, seed)


def _open_birdsnap(root: Path, seed: int) -> LabelledSplits:
    train, test = (_open_folder(root / "birdsnap" / s) for s in ("train", "test"))
    if test.classes != train.classes:
        raise RuntimeError("train and test have other classes")
    return _hold_out_val(train, test, _count_of(4_981, 47_386), seed)  # [B] table 10


def _open_folder(path: Path) -> LabelledImages:
    if not path.is_dir():
        raise RuntimeError(f"no folder {path}")
    return LabelledImages.from_dataset(open_dataset(path))


def _open_sun397(root: Path, seed: int) -> LabelledSplits:
    # The list of classes fixes the numbers of the labels.
    base = root / "SUN397"
    classes = [line[3:].strip() for line in (base / "ClassName.txt").read_text().splitlines() if line.strip()]
    number = {c: n for n, c in enumerate(classes)}

    def split(name: str, file: str) -> LabelledImages:
        # The lists lie in one of two folders, by the way the archive was unpacked.
        lists = next((p for p in (base / file, base / "Partitions" / file) if p.exists()), None)
        if lists is None:
            raise RuntimeError(f"no {file} in {base}")
        # Each line is a path, and its folders name the class.
        lines = [line.strip() for line in lists.read_text().splitlines() if line.strip()]
        labels = [number["/".join(line.split("/")[2:-1])] for line in lines]
        return _open_files(f"sun397/{name}", [base / line.lstrip("/") for line in lines], labels, classes)

    train, test = split("train", "Training_01.txt"), split("test", "Testing_01.txt")
    return _hold_out_val(train, test, _per_class(10), seed)  # [B] app. D.1: 40 of a class train, 10 validate


def _open_voc2007(root: Path, seed: int) -> LabelledSplits:
    train, val, test = (_open_voc_split(root, s) for s in ("train", "val", "test"))
    return LabelledSplits(train, val, test)


def _open_voc_split(root: Path, split: str) -> LabelledImages:
    """Label a class 1 if it is in the image, and -1 (not judged) if only difficult objects of it are."""
    found = _load_torchvision("VOCDetection", root, year="2007", image_set=split)
    labels = np.zeros((len(found.images), len(voc_classes.CLASSES)), np.int64)
    for row, annotation in enumerate(found.annotations):
        # One clear object outweighs any difficult ones.
        for thing in ElementTree.parse(annotation).getroot().iter("object"):
            column = voc_classes.CLASSES.index(thing.findtext("name", ""))
            if thing.findtext("difficult") != "1":
                labels[row, column] = 1
            elif labels[row, column] == 0:
                labels[row, column] = -1
    return LabelledImages.from_bytes(
        f"voc2007/{split}", labels, list(voc_classes.CLASSES), lambda row: read_bytes(found.images[row])
    )


def _open_caltech101(root: Path, seed: int) -> LabelledSplits:
    """Draw 30 images of each of the 102 folders, one of them the background, for training; the rest is for test."""
    whole = _open_folder(root / "caltech101" / "101_ObjectCategories")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(whole))
    train = np.sort(np.concatenate([order[whole.labels[order] == c][:30] for c in range(len(whole.classes))]))
    test = np.setdiff1d(np.arange(len(whole)), train)
    parts = whole.subset(train, "caltech101/train"), whole.subset(test, "caltech101/test")
    return _hold_out_val(*parts, _per_class(5), seed)  # [B] app. D.1: 25 of a class train, 5 validate


_TENTH = "a tenth of each class of train is held out as validation: [B] table 10's counts, the draw is ours"
_COUNT = "of train are held out as validation, in proportion to the classes: [B] table 10's count, the draw is ours"
TRANSFER_SETS: Mapping[str, TransferSet] = {
    "food101": TransferSet(
        "Food101", "top-1", f"official train 75 750 / test 25 250; {_TENTH}",
        _download("Food101('{root}'"), _with_held_out_val("food101", "Food101", _tenth),  # [B] table 10: 7 575
    ),
    "cifar10": TransferSet(
        "CIFAR10", "top-1", f"official train 50 000 / test 10 000; {_TENTH}",
        _download("CIFAR10('{root}'"), _open_cifar("cifar10", "CIFAR10", _tenth),  # [B] table 10: 5 000
    ),
    "cifar100": TransferSet(
        "CIFAR100", "top-1", f"official train 50 000 / test 10 000; 5 067 {_COUNT}",
        _download("CIFAR100('{root}'"),
        _open_cifar("cifar100", "CIFAR100", _count_of(5_067, 50_000)),  # [B] table 10
    ),
    "birdsnap": TransferSet(
        "Birdsnap", "top-1", f"official train 47 386 / test 2 443; 4 981 {_COUNT}",
        "by hand: get_birdsnap.py of thomasberg.org fetches the images; its test_images.txt says which are for test; "
        "put them as {root}/birdsnap/train/SPECIES/*.jpg and {root}/birdsnap/test/SPECIES/*.jpg",
        _open_birdsnap,
    ),
    "sun397": TransferSet(
        "SUN397", "top-1",
        "the first official partition, train 19 850 / test 19 850; 10 random images of each class are validation "
        "([B] app. D.1)",
        "by hand: SUN397.tar.gz and Partitions.zip of vision.princeton.edu/projects/2010/SUN, unpacked as "
        "{root}/SUN397/ClassName.txt, {root}/SUN397/a/..., {root}/SUN397/Training_01.txt and Testing_01.txt",
        _open_sun397,
    ),
    "cars": TransferSet(
        "Cars", "top-1", f"official train 8 144 / test 8 041; 1 650 {_COUNT}",
        "by hand (the official site is gone): {root}/stanford_cars/cars_train/*.jpg, cars_test/*.jpg, "
        "devkit/cars_meta.mat, devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat",
        _with_held_out_val("cars", "StanfordCars", _count_of(1_650, 8_144)),  # [B] table 10
    ),
    "aircraft": TransferSet(
        "Aircraft", "mean per class", "official train 3 334 / val 3 333 / test 3 333, 100 variants",
        _download("FGVCAircraft('{root}'"), _with_official_val("aircraft", "FGVCAircraft", annotation_level="variant"),
    ),
    "voc2007": TransferSet(
        "VOC2007", "11-point mAP", "official train 2 501 / val 2 510 / test 4 952; difficult objects are not judged",
        _download("VOCDetection('{root}', year='2007', image_set='trainval'")
        + " and again with image_set='test': {root}/VOCdevkit/VOC2007",
        _open_voc2007,
    ),
    "dtd": TransferSet(
        "DTD", "top-1", "the first official partition, train 1 880 / val 1 880 / test 1 880",
        _download("DTD('{root}'"), _with_official_val("dtd", "DTD", partition=1),
    ),
    "pets": TransferSet(
        "Pets", "mean per class",
        "official trainval 3 680 / test 3 669; 20 random images of each class are validation ([B] app. D.1)",
        _download("OxfordIIITPet('{root}'"),
        _with_held_out_val("pets", "OxfordIIITPet", _per_class(20), "trainval"),  # [B] app. D.1
    ),
    "caltech101": TransferSet(
        "Caltech-101", "mean per class",
        "30 random images of each of 102 folders, 5 of them validation, the rest test; one split by seed, [B] app. D.1 "
        "has the mean of five",
        "by hand: caltech-101.zip of data.caltech.edu/records/mzrjq-6wc02, its 101_ObjectCategories.tar.gz unpacked as "
        "{root}/caltech101/101_ObjectCategories/CLASS/*.jpg, BACKGROUND_Google too",
        _open_caltech101,
    ),
    "flowers": TransferSet(
        "Flowers", "mean per class", "official train 1 020 / val 1 020 / test 6 149, 102 species",
        _download("Flowers102('{root}'"), _with_official_val("flowers", "Flowers102"),
    ),
}  # fmt: skip
