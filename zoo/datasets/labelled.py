"""Labelled images as the fine-tuning and transfer protocols see them: splits, parts of a split, held-out images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from zoo.datasets.dataset import Dataset, has_split, open_dataset
from zoo.errors import UserError
from zoo.transforms.decode import UnreadableImage, decode

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Images with their labels.

    Attributes:
        labels: int64 [N]; or [N, C] of 1, 0 and -1 (not judged) where an image has several.
        get: the pixels of a row.
        sha256: of the images' bytes and the labels.
        row_name: of a row.
    """

    name: str
    labels: Ints
    classes: list[str]
    get: Callable[[int], Image]
    sha256: str
    row_name: Callable[[int], str] = str

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int, /) -> Image:
        """The upright RGB image of a row. UserError: it cannot be read."""
        return self.get(index)

    def part(self, rows: Ints, name: str) -> Labelled:
        """These rows in this order."""
        digest = hashlib.sha256(self.sha256.encode() + rows.tobytes()).hexdigest()
        return Labelled(
            name,
            self.labels[rows],
            self.classes,
            lambda i: self.get(int(rows[i])),
            digest,
            lambda i: self.row_name(int(rows[i])),
        )

    def followed_by(self, other: Labelled) -> Labelled:
        """Both, one after the other: train + validation."""
        here = len(self)
        return Labelled(
            f"{self.name} + {other.name}",
            np.concatenate([self.labels, other.labels]),
            self.classes,
            lambda i: self.get(i) if i < here else other.get(i - here),
            hashlib.sha256((self.sha256 + other.sha256).encode()).hexdigest(),
        )


@dataclass(frozen=True)
class Splits:
    """What is trained on, what chooses hyper-parameters (or ``None``), and what gives the score; and by which rule."""

    train: Labelled
    val: Labelled | None
    test: Labelled
    rule: str = "as given"


def of_dataset(dataset: Dataset) -> Labelled:
    """A folder or parquet file with labels. UserError: it has none."""
    return Labelled(
        dataset.name, dataset.required_labels, dataset.classes, dataset.image, dataset.sha256(), dataset.row_name
    )


def of_bytes(name: str, labels: Ints, classes: list[str], read: Callable[[int], bytes]) -> Labelled:
    """Images as files' bytes by row."""
    digest = hashlib.sha256()
    for row in range(len(labels)):
        digest.update(hashlib.sha256(read(row)).digest())
    digest.update(labels.tobytes())

    def get(row: int) -> Image:
        try:
            return decode(read(row))
        except UnreadableImage as error:
            raise UserError(f"{name}: image {row} cannot be read ({error}): fetch the data set again") from None

    return Labelled(name, labels, classes, get, digest.hexdigest())


def open_splits(path: Path, seed: int = 0) -> Splits:
    """``train``, ``val`` and ``test`` of a folder; without ``test``, ``val`` gives the score.

    Of a single parquet file a fifth of each class, drawn from ``seed``, is the test split.

    Raises:
        UserError: a split or its labels are missing, or a class is in one split and not in train.
    """
    if path.is_file():
        whole = of_dataset(open_dataset(path))
        kept, held = hold_out(whole.labels, 0.2, seed)
        rule = "a fifth of each class of one file held out as test"
        return Splits(whole.part(kept, f"{whole.name}/train"), None, whole.part(held, f"{whole.name}/test"), rule)
    train, tests = of_dataset(open_dataset(path, "train")), [s for s in ("test", "val") if has_split(path, s)]
    if not tests:
        raise UserError(f"{path} has no test/ (or val/) folder, and no parquet, tar or npz file of these names")
    test = of_dataset(open_dataset(path, tests[0]))
    val = of_dataset(open_dataset(path, "val")) if len(tests) == 2 else None
    for other in (test, val):
        if other is not None and not set(other.classes) <= set(train.classes):
            extra = sorted(set(other.classes) - set(train.classes))
            raise UserError(f"{other.name} has classes that {train.name} lacks, first {extra[0]!r}: use the same names")
    return Splits(train, _renumbered(val, train.classes) if val else None, _renumbered(test, train.classes))


def _renumbered(split: Labelled, classes: list[str]) -> Labelled:
    """Labels by the training split's order of classes: a split may lack some of them."""
    if split.classes == classes:
        return split
    number = np.array([classes.index(c) for c in split.classes], np.int64)
    return Labelled(split.name, number[split.labels], classes, split.get, split.sha256, split.row_name)


def stratified(labels: Ints, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Rows of a random part of every class, at least one image of each, and the other rows; both sorted.

    Args:
        labels: [N], or [N, C] of several labels, whose rows are drawn regardless of class.
        fraction: of each class, in (0, 1).
    """
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(labels))
    if labels.ndim == 2:
        chosen = order[: max(1, round(len(labels) * fraction))]
    else:
        parts = [order[labels[order] == label] for label in np.unique(labels)]
        chosen = np.concatenate([rows[: max(1, round(len(rows) * fraction))] for rows in parts])
    chosen = np.sort(chosen)
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def hold_out(labels: Ints, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Rows to train on and rows to judge by; a class with one image keeps it for training.

    Raises:
        UserError: no class has a second image, so that nothing can be held out.
    """
    held, kept = stratified(labels, fraction, seed)
    if labels.ndim == 1:
        missing = np.setdiff1d(labels[held], labels[kept])
        back = np.array([held[labels[held] == label][0] for label in missing], np.int64)
        held, kept = np.setdiff1d(held, back), np.sort(np.concatenate([kept, back]))
    if not len(held) or not len(kept):
        raise UserError(
            "every class has one image, so that none can be held out to choose by: give one value for each option"
        )
    return kept, held
