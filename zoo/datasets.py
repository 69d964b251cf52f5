"""Labelled images for training and evaluation: a folder per class, or parquet with image bytes.

A source is read once into memory as compressed bytes (parquet) or as a list of paths (folder); pixels are decoded
when asked for. Splits of a folder ``DIR`` are ``DIR/train``, ``DIR/test`` and so on, or ``DIR/train*.parquet``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.errors import UserError
from zoo.images import EXTENSIONS, UnreadableImage, decode, read_bytes

_IMAGE_COLUMNS = ("image", "img", "jpg", "png")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


@dataclass(frozen=True)
class Dataset:
    """Images with or without labels.

    Attributes:
        name: for messages and results.
        labels: int64 [N] in 0..len(classes)-1, or ``None``.
        classes: names; a parquet file without them has the numbers.
    """

    name: str
    labels: NDArray[np.int64] | None
    classes: list[str]
    _bytes: Callable[[int], bytes]
    _names: Callable[[int], str]
    _length: int

    def __len__(self) -> int:
        return self._length

    @property
    def required_labels(self) -> NDArray[np.int64]:
        """``labels``; a UserError where there are none."""
        if self.labels is None:
            raise UserError(f"{self.name} has no labels: use a folder per class, or a label column")
        return self.labels

    def image(self, index: int) -> Image.Image:
        """The upright RGB image of row ``index``.

        Raises:
            UserError: it cannot be read; the message names it and says why.
        """
        try:
            return decode(self._bytes(index))
        except UnreadableImage as error:
            raise UserError(
                f"{self.name}: {self._names(index)} cannot be read ({error}): remove or replace it"
            ) from None

    def sha256(self) -> str:
        """Of all images' bytes and labels in order."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(hashlib.sha256(self._bytes(index)).digest())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()


def open_dataset(path: Path, split: str | None = None) -> Dataset:
    """Opens an image folder, a parquet file or a folder of them; of a folder with splits, ``split``.

    Raises:
        UserError: nothing there, no image column, or a label that is missing.
    """
    if path.is_file():
        return _parquet([path], path.stem)
    if not path.is_dir():
        raise UserError(f"no data at {path}: give a folder of images, a parquet file or a folder of them")
    if split is not None:
        if (path / split).is_dir():
            return _folder(path / split, f"{path.name}/{split}")
        files = sorted(path.glob(f"{split}*.parquet"))
        if not files:
            raise UserError(f"{path} has no {split}/ folder and no {split}*.parquet")
        return _parquet(files, f"{path.name}/{split}")
    files = sorted(path.glob("*.parquet"))
    return _parquet(files, path.name) if files else _folder(path, path.name)


def evaluation_splits(path: Path) -> tuple[Dataset, Dataset]:
    """Train and test of a folder; where there is no test split, ``val`` takes its place."""
    has_test = (path / "test").is_dir() or any(path.glob("test*.parquet"))
    train, test = open_dataset(path, "train"), open_dataset(path, "test" if has_test else "val")
    missing = np.setdiff1d(test.required_labels, train.required_labels)
    if len(missing) or (train.classes[: len(test.classes)] != test.classes):
        raise UserError(f"{test.name} has classes that {train.name} lacks: both need the same class names")
    return train, test


def _folder(path: Path, name: str) -> Dataset:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not files:
        raise UserError(f"no images under {path}")
    tops = [p.relative_to(path).parts for p in files]
    labelled = all(len(t) > 1 for t in tops)
    classes = sorted({t[0] for t in tops}) if labelled else []
    number = {c: n for n, c in enumerate(classes)}
    labels = np.array([number[t[0]] for t in tops], np.int64) if labelled else None
    return Dataset(
        name,
        labels,
        classes,
        lambda i: read_bytes(files[i]),
        lambda i: files[i].relative_to(path).as_posix(),
        len(files),
    )


def _parquet(files: list[Path], name: str) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(files[0]).names
        image = next((c for c in _IMAGE_COLUMNS if c in columns), None)
        label = next((c for c in _LABEL_COLUMNS if c in columns), None)
        if image is None:
            raise UserError(
                f"{files[0]} has no image column ({', '.join(_IMAGE_COLUMNS)}); it has {', '.join(columns)}"
            )
        table = pa.concat_tables([pq.read_table(f, columns=[image] + ([label] if label else [])) for f in files])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from None
    column = table[image].combine_chunks() if table[image].num_chunks == 1 else table[image]
    if pa.types.is_struct(column.type):  # Hugging Face datasets: {bytes, path}
        column = pa.chunked_array([c.field("bytes") for c in table[image].chunks])
    labels, classes = _labels(table[label], name) if label else (None, [])

    def get(index: int) -> bytes:
        value: Any = column[index].as_py()
        if not isinstance(value, bytes):
            raise UserError(f"{name}: row {index} holds no image bytes")
        return value

    return Dataset(name, labels, classes, get, lambda i: f"row {i}", table.num_rows)


def _labels(column: Any, name: str) -> tuple[NDArray[np.int64], list[str]]:
    if column.null_count:
        raise UserError(f"{name}: {column.null_count} rows have no label: remove them or the label column")
    values = column.to_pylist()
    if all(isinstance(v, int) and v >= 0 for v in values):
        return np.array(values, np.int64), [str(n) for n in range(max(values, default=-1) + 1)]
    classes = sorted({str(v) for v in values})
    number = {c: n for n, c in enumerate(classes)}
    return np.array([number[str(v)] for v in values], np.int64), classes
