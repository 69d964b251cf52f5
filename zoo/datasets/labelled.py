"""Labelled images for fine-tuning and transfer: splits, subsets of a split, held-out images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from zoo.datasets.dataset import Dataset
from zoo.datasets.listed import takes, text_of
from zoo.datasets.opening import evaluation_splits, has_split, open_dataset, open_training_data
from zoo.errors import UserError
from zoo.system.verbosity import note
from zoo.transforms.decode import decode
from zoo.transforms.unreadable import UnreadableImage

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """Images with one or several labels each, and a hash of both.

    Attributes:
        name: for messages.
        labels: int64 [N]; or [N, C] of 1, 0 and -1 (not judged) for images with several labels.
        classes: names.
        get: returns the image of a row.
        sha256: of the images' bytes and the labels.
        row_name: returns the name of a row.
        digests: sha256 of each image, 32 bytes [N]; ``None`` where they were not kept.
    """

    name: str
    labels: Ints
    classes: list[str]
    get: Callable[[int], Image]
    sha256: str
    row_name: Callable[[int], str] = str
    digests: NDArray[np.bytes_] | None = None

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> LabelledImages:
        """Wrap a data set, hashing all of it.

        Raises:
            UserError: it has no labels.
        """
        labels, digests = dataset.required_labels, dataset.digests()
        sha256 = dataset.sha256_of(digests)
        return cls(dataset.name, labels, dataset.classes, dataset.image, sha256, dataset.row_name, digests)

    @classmethod
    def from_bytes(cls, name: str, labels: Ints, classes: list[str], read: Callable[[int], bytes]) -> LabelledImages:
        """Wrap images whose encoded bytes ``read`` returns by row, hashing all of them."""
        # The hash covers pixels and labels, so that caches notice a change of either.
        digest = hashlib.sha256()
        for row in range(len(labels)):
            digest.update(hashlib.sha256(read(row)).digest())
        digest.update(labels.tobytes())

        def get(row: int) -> Image:
            try:
                return decode(read(row))
            except UnreadableImage as error:
                raise UserError(f"{name}: image {row} cannot be read ({error}): fetch the data set again") from None

        return cls(name, labels, classes, get, digest.hexdigest())

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int, /) -> Image:
        """Return the upright RGB image of a row.

        Raises:
            UserError: it cannot be read.
        """
        return self.get(index)

    def subset(self, rows: Ints, name: str) -> LabelledImages:
        """Return the given rows in their order, under a new name."""
        return LabelledImages(
            name,
            self.labels[rows],
            self.classes,
            lambda i: self.get(int(rows[i])),
            hashlib.sha256(self.sha256.encode() + rows.tobytes()).hexdigest(),
            lambda i: self.row_name(int(rows[i])),
            None if self.digests is None else self.digests[rows],
        )

    def rows_named(self, names: Sequence[str], source: Path) -> Ints:
        """Return the rows of images in the order of ``names``: names as the data set has them, or file names alone.

        Args:
            source: file that lists the names, for the messages.

        Raises:
            UserError: an image is missing, or several have a file name.
        """
        # Every image is found by its full name and by its file name.
        rows: dict[str, list[int]] = {}
        for row in range(len(self)):
            name = self.row_name(row)
            for key in {name, Path(name).name}:
                rows.setdefault(key, []).append(row)
        # The full name has precedence over the file name.
        found = [rows.get(name) or rows.get(Path(name).name, []) for name in names]
        missing = [name for name, of in zip(names, found, strict=True) if not of]
        if missing:
            raise UserError(
                f"{self.name} lacks {len(missing)} of the {len(names)} files of {source.name}: {missing[0]}"
            )
        several = [name for name, of in zip(names, found, strict=True) if len(of) > 1]
        if several:
            raise UserError(f"{source.name}: {self.name} has several images named {several[0]}: write CLASS/FILE")
        return np.array([of[0] for of in found], np.int64)

    def followed_by(self, other: LabelledImages) -> LabelledImages:
        """Return the rows of both, e.g. of train and validation."""
        count = len(self)
        return LabelledImages(
            f"{self.name} + {other.name}",
            np.concatenate([self.labels, other.labels]),
            self.classes,
            lambda i: self.get(i) if i < count else other.get(i - count),
            hashlib.sha256((self.sha256 + other.sha256).encode()).hexdigest(),
        )


@dataclass(frozen=True)
class LabelledSplits:
    """The splits of a data set.

    Attributes:
        train: images to train on.
        val: images that choose hyper-parameters, ``None`` where there are none.
        test: images that give the score.
        rule: how the data set was split, in words.
    """

    train: LabelledImages
    val: LabelledImages | None
    test: LabelledImages
    rule: str = "as given"


def open_splits(path: Path, seed: int = 0, label_column: str | None = None) -> LabelledSplits:
    """Open the splits ``train``, ``val`` and ``test`` of a folder or .npz; without ``test``, ``val`` gives the score.

    Another single file, list or glob has no splits: a fifth of each class, drawn from ``seed``, becomes the test split.

    Raises:
        UserError: a split or its labels are missing, all labels are the same, or train lacks a class of another split.
    """
    splits = _open_splits(path, seed, label_column)
    train = splits.train
    if train.labels.ndim == 1 and (train.labels == train.labels[0]).all():  # every protocol would score 100 %
        raise UserError(
            f"{train.name}: all labels are {train.classes[train.labels[0]]!r}: a score needs two classes or more; "
            "a split whose labels are not public often has one number for all"
        )
    _require_known_classes(splits)
    _tell_copies(splits)
    return splits


def _open_splits(path: Path, seed: int, label_column: str | None) -> LabelledSplits:
    # Without splits, a part is held out.
    has_test = any(has_split(path, split) for split in ("test", "val"))
    if (path.is_file() and not has_test) or (takes(text_of(path)) and not has_split(path, "train")):
        whole = LabelledImages.from_dataset(open_dataset(path, None, label_column))
        kept, held = hold_out(whole.labels, 0.2, seed)
        rule = "a fifth of each class of one file held out as test"
        train, test = whole.subset(kept, f"{whole.name}/train"), whole.subset(held, f"{whole.name}/test")
        return LabelledSplits(train, None, test, rule)
    # A folder brings its own splits; val gives the score where test is missing.
    train = LabelledImages.from_dataset(open_dataset(path, "train", label_column))
    names = [s for s in ("test", "val") if has_split(path, s)]
    if not names:
        raise UserError(f"{path} has no test/ (or val/) folder, and no parquet, tar or npz file of these names")
    test = LabelledImages.from_dataset(open_dataset(path, names[0], label_column))
    val = LabelledImages.from_dataset(open_dataset(path, "val", label_column)) if len(names) == 2 else None
    # The labels of all splits must mean the same classes. Numbers have names from 0 on, also those that do not occur.
    for other in (test, val):
        used = set() if other is None else {other.classes[label] for label in np.unique(other.labels)}
        if other is not None and (extra := sorted(used - set(train.classes))):
            raise UserError(f"{other.name} has classes that {train.name} lacks, first {extra[0]!r}: use the same names")
    return LabelledSplits(train, _renumber(val, train.classes) if val else None, _renumber(test, train.classes))


def _require_known_classes(splits: LabelledSplits) -> None:
    """Refuse images of classes without a training image.

    Numbers have names without gaps, 0 to the largest, so that the names alone do not tell which of them occur.
    """
    train = splits.train
    for other in (splits.test, splits.val):
        if other is not None and len(missing := np.setdiff1d(other.labels, train.labels)):
            raise UserError(
                f"{other.name} has images of {train.classes[missing[0]]!r}, and {train.name} has none: every answer "
                "for them would be wrong; remove them, or add images of this class to train"
            )


def _tell_copies(splits: LabelledSplits) -> None:
    """Tell how many test images the classifier learns from: such a score says little about new images."""
    train, test = splits.train, splits.test
    if train.digests is None or test.digests is None:
        return
    if copies := int(np.isin(test.digests, train.digests).sum()):
        note(
            f"{copies} of {len(test)} images of {test.name} are in {train.name} too, byte for byte: the score counts "
            "what was learned by heart"
        )


def training_splits(source: Path | str, label_column: str | None = None) -> tuple[Dataset, Dataset]:
    """Open the images to train on and those to score by: ``train`` and ``test`` (or ``val``).

    A source without a test split holds out a fifth of each class, always the same images.

    Raises:
        UserError: labels are missing, or train lacks a class of the test split.
    """
    if has_split(source, "test") or has_split(source, "val"):
        return evaluation_splits(source, label_column)
    whole = open_training_data(source, label_column)
    kept, held = hold_out(whole.required_labels, 0.2, 0)
    return replace(whole.subset(kept), name=f"{whole.name}/kept"), replace(
        whole.subset(held), name=f"{whole.name}/held"
    )


def _renumber(split: LabelledImages, classes: list[str]) -> LabelledImages:
    """Number the labels in the order of ``classes``, as a split may lack some of them."""
    if split.classes == classes:
        return split
    known = {name: number for number, name in enumerate(classes)}
    number = np.array([known.get(name, -1) for name in split.classes], np.int64)  # -1: no image has it
    return replace(split, labels=number[split.labels], classes=classes)


def stratified_split(labels: Ints, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Draw rows from every class, at least one image of each; return these rows and the others, both sorted.

    Args:
        labels: [N]; or [N, C] for images with several labels, which are drawn regardless of class.
        fraction: of each class, in (0, 1).
    """
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(labels))
    if labels.ndim == 2:
        drawn = order[: max(1, round(len(labels) * fraction))]
    else:
        by_class = [order[labels[order] == label] for label in np.unique(labels)]
        drawn = np.concatenate([rows[: max(1, round(len(rows) * fraction))] for rows in by_class])
    drawn = np.sort(drawn)
    return drawn, np.setdiff1d(np.arange(len(labels)), drawn)


def hold_out_per_class(labels: Ints, count: int, seed: int) -> tuple[Ints, Ints]:
    """Return the rows to train on and ``count`` rows held out of each class, at most half of a class."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(labels))
    by_class = [order[labels[order] == label] for label in np.unique(labels)]
    held = np.sort(np.concatenate([rows[: min(count, len(rows) // 2)] for rows in by_class]))
    return np.setdiff1d(np.arange(len(labels)), held), held


def hold_out_count(labels: Ints, count: int, seed: int) -> tuple[Ints, Ints]:
    """Return the rows to train on and ``count`` rows held out, the same part of each class to within one image.

    A class keeps at least one image for training.

    Raises:
        UserError: there are not that many images beside one of each class.
    """
    # Each class must keep one image to train on.
    classes, sizes = np.unique(labels, return_counts=True)
    if not 0 < count <= len(labels) - len(classes):
        raise UserError(f"{count} of {len(labels)} images in {len(classes)} classes cannot be held out")
    # The share of each class is rounded down first.
    quotas = np.minimum(sizes * count / len(labels), sizes - 1)
    held_sizes = np.floor(quotas).astype(np.int64)
    # the images that rounding down left over go to the classes with the largest remainders
    while (missing := count - int(held_sizes.sum())) > 0:
        open_classes = np.flatnonzero(held_sizes < sizes - 1)
        largest = open_classes[np.argsort(-(quotas - held_sizes)[open_classes], kind="stable")]
        held_sizes[largest[:missing]] += 1
    # Random images of each class fill its share.
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(labels))
    parts = [order[labels[order] == label][:size] for label, size in zip(classes, held_sizes.tolist(), strict=True)]
    held = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(labels)), held), held


def hold_out(labels: Ints, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Return the rows to train on and the rows held out; a class with a single image keeps it for training.

    Raises:
        UserError: no class has a second image, so nothing can be held out.
    """
    held, kept = stratified_split(labels, fraction, seed)
    if labels.ndim == 1:
        missing = np.setdiff1d(labels[held], labels[kept])
        back = np.array([held[labels[held] == label][0] for label in missing], np.int64)
        held, kept = np.setdiff1d(held, back), np.sort(np.concatenate([kept, back]))
    if not len(held) or not len(kept):
        raise UserError(
            "every class has one image, so that none can be held out to choose by: give one value for each option"
        )
    return kept, held
