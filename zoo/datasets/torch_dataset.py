"""Any map-style torch ``Dataset`` as a ``zoo.datasets.dataset.Dataset``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.datasets.dataset import Dataset
from zoo.errors import UserError, reason_of
from zoo.transforms.decode import to_rgb
from zoo.transforms.unreadable import UnreadableImage


class MapDataset(Protocol):
    """A map-style data set of torch, or a list: its items are images, or tuples that begin with an image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


def from_torch(data: MapDataset, *, name: str = "dataset", labels: Sequence[int] | None = None) -> Dataset:
    """Return a data set that reads images from ``data``.

    Args:
        data: an item is an image, or a tuple or dict with one first (or under ``image`` or ``pixel_values``). An image
            is a PIL image, uint8 [H, W, 3] or [H, W], or a uint8 tensor [3, H, W]. It must be untransformed: views are
            made from it.
        name: for messages and checkpoints.
        labels: whole numbers from 0, one per item; default: ``data.targets`` where it has them, as torchvision's data
            sets do. Without labels there is no online probe.

    Raises:
        UserError: there are no items, the number of labels differs, or the first item holds no image.
    """
    length = len(data)
    if not length:
        raise UserError(f"{name} has no images")
    found = getattr(data, "targets", None) if labels is None else labels
    numbers = None if found is None else np.asarray(found)
    if numbers is not None and (numbers.shape != (length,) or not np.issubdtype(numbers.dtype, np.integer)):
        raise UserError(
            f"{name}: {length} images and labels {numbers.shape} of {numbers.dtype}: give a number for each"
        )
    if numbers is not None and numbers.min() < 0:
        raise UserError(f"{name} has the label {numbers.min()}: labels are numbers from 0")
    _pixels(data[0], f"{name}[0]")
    classes = [] if numbers is None else [str(n) for n in range(int(numbers.max()) + 1)]
    names = getattr(data, "classes", None)
    if numbers is not None and names is not None and len(names) >= len(classes):
        classes = [str(each) for each in names]

    def read(index: int) -> NDArray[np.uint8]:
        try:
            item = data[index]
        except Exception as error:  # of whatever the data set reads from
            raise UnreadableImage("corrupt", reason_of(error)) from error
        return _pixels(item, f"{name}[{index}]")

    return Dataset(
        name,
        None if numbers is None else numbers.astype(np.int64),
        classes,
        read,
        lambda index: f"item {index}",
        length,
    )


def _pixels(item: object, where: str) -> NDArray[np.uint8]:
    """Return the pixels uint8 [H, W, 3] of an item."""
    image = item
    if isinstance(item, dict):
        image = item.get("image", item.get("pixel_values"))
    elif isinstance(item, tuple | list) and len(item):
        image = item[0]
    if isinstance(image, Image.Image):
        return np.array(to_rgb(image))
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:  # a tensor
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(
            f"{where} is {type(image).__name__} {array.shape} of {array.dtype}: give PIL images or uint8 [H, W, 3], "
            "without a transform"
        )
    return np.ascontiguousarray(array)
