"""Data sets of torchvision that are already on the disk; nothing is downloaded here.

torchvision reads CIFAR from pickles, each only after its MD5 has been found to be the published one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from zoo.errors import UserError, reason_of
from zoo.transforms.decode import to_rgb
from zoo.transforms.unreadable import UnreadableImage

Arguments = Mapping[str, str | bool]

_BY_FLAG: Mapping[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}


def _by_name(**names: str) -> Mapping[str, Arguments]:
    return {ours: {"split": theirs} for ours, theirs in names.items()}


_TRAIN_TEST = _by_name(train="train", test="test")
_TRAIN_VAL_TEST = _by_name(train="train", val="val", test="test")
SPLITS: Mapping[str, Mapping[str, Arguments]] = {  # class -> split -> arguments
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "MNIST": _BY_FLAG,
    "FashionMNIST": _BY_FLAG,
    "KMNIST": _BY_FLAG,
    "STL10": _by_name(train="train", test="test", unlabeled="unlabeled"),
    "SVHN": _TRAIN_TEST,
    "DTD": _TRAIN_VAL_TEST,
    "FGVCAircraft": _by_name(train="train", val="val", test="test", trainval="trainval"),
    "Flowers102": _TRAIN_VAL_TEST,
    "Food101": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "Imagenette": _by_name(train="train", val="val"),
    "OxfordIIITPet": _by_name(train="trainval", test="test"),
}


class VisionDataset(Protocol):
    """The common part of torchvision's data sets; labels and class names have other names in each."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image, object]: ...


@dataclass(frozen=True)
class TorchvisionData:
    """A split of a data set of torchvision as rows of pixels.

    Attributes:
        length: number of images.
        labels: int64 [N], or ``None`` where there are none.
        classes: names; empty where the data set has none.
        read: returns the pixels of a row, uint8 [H, W, 3].
    """

    name: str
    length: int
    labels: NDArray[np.int64] | None
    classes: list[str]
    read: Callable[[int], NDArray[np.uint8]]


def has_torchvision_split(source: str, split: str) -> bool:
    """Return whether torchvision has the split; true for an unknown name, which ``open_torchvision`` then explains."""
    name = source.split(":")[1]
    return name not in SPLITS or split in SPLITS[name]


def open_torchvision(source: str, split: str | None) -> TorchvisionData:
    """Open ``torchvision:NAME:ROOT``, e.g. ``torchvision:CIFAR10:data``; ``split`` is ``train`` unless given.

    Raises:
        UserError: the name or split is unknown, or the data set is not below ROOT: the message says how to get it.
    """
    # Take the source apart and check its names.
    _, _, rest = source.partition(":")
    name, _, root = rest.partition(":")
    split = split or "train"
    if name not in SPLITS or not root:
        raise UserError(f"{source}: write torchvision:NAME:ROOT with NAME one of {', '.join(SPLITS)}")
    if split not in SPLITS[name]:
        raise UserError(f"torchvision's {name} has no split {split!r}: it has {', '.join(SPLITS[name])}")
    arguments = SPLITS[name][split]
    from torchvision import datasets

    # Nothing is downloaded here; a failure tells the user how to do so.
    try:
        data = getattr(datasets, name)(root, **arguments, download=False)
    except ImportError as error:
        raise UserError(f"torchvision's {name} needs a package: {error}") from None
    except Exception as error:  # each class raises its own kind where files are missing
        text = ", ".join([repr(root), *(f"{k}={v!r}" for k, v in arguments.items()), "download=True"])
        reason = reason_of(error, 120)
        raise UserError(
            f"torchvision's {name} ({split}) is not whole in {root} ({reason}): get it with "
            f'python -c "from torchvision.datasets import {name}; {name}({text})"'
        ) from None
    return TorchvisionData(f"{name}/{split}", len(data), _labels(data), _classes(data), _reader(data))


def _reader(data: VisionDataset) -> Callable[[int], NDArray[np.uint8]]:
    """Return a function from row to pixels: of the array in memory where there is one, else decoded on demand."""
    pixels = getattr(data, "data", None)
    if pixels is None:
        return lambda index: _decode(data, index)
    array = np.asarray(pixels)
    if array.ndim == 3:
        array = np.broadcast_to(array[..., None], (*array.shape, 3))
    elif array.shape[1] == 3:
        array = array.transpose(0, 2, 3, 1)
    return lambda index: np.ascontiguousarray(array[index])


def _decode(data: VisionDataset, index: int) -> NDArray[np.uint8]:
    try:
        image, _ = data[index]
    except Exception as error:  # as above
        raise UnreadableImage("corrupt", reason_of(error)) from error
    return np.array(to_rgb(image))


def _labels(data: VisionDataset) -> NDArray[np.int64] | None:
    for attribute in ("targets", "labels", "_labels"):
        values = getattr(data, attribute, None)
        if values is not None and len(values) == len(data):
            labels = np.asarray(values, np.int64)
            return labels if labels.min() >= 0 else None  # STL10 marks images without a label by -1
    pairs = getattr(data, "_samples", None)
    return None if pairs is None else np.array([label for _, label in pairs], np.int64)


def _classes(data: VisionDataset) -> list[str]:
    classes = getattr(data, "classes", None) or []
    return [" / ".join(c) if isinstance(c, tuple) else str(c) for c in classes]
