"""Open a source of labelled images, or one of its splits, as a ``Dataset`` for training and evaluation.

| source | content |
|---|---|
| ``DIR`` | a folder per class; or images without labels; or ``*.parquet`` or ``*.tar`` files |
| ``FILE.parquet`` | encoded images in a column, read into memory |
| ``FILE.tar``, ``shard-{000000..000009}.tar`` | webdataset shards, read in place (``zoo.sources.tar_samples``) |
| ``FILE.npy``, ``FILE.npz`` | small images as one array (``zoo.datasets.npz``) |
| list, glob, URL, folder of Hugging Face | as ``zoo extract --images`` reads them (``zoo.datasets.listed``) |
| ``lists/{split}.csv`` | one of these for each split |
| ``torchvision:NAME:ROOT`` | a data set that torchvision has downloaded (``zoo.datasets.torchvision``) |

The split ``train`` of a folder ``DIR`` is ``DIR/train``, ``DIR/train*.parquet``, ``DIR/train*.tar`` or
``DIR/train.npz``; ``val`` and ``test`` likewise. An .npz file can have them all, as ``train_images``, ``train_labels``
and so on (MedMNIST).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from zoo.datasets.dataset import Dataset
from zoo.datasets.label_numbers import number_labels, number_names
from zoo.datasets.listed import LABEL_COLUMNS, Listed, split_of, takes, text_of
from zoo.datasets.npz import PixelArray, open_npy, open_npz, splits_of
from zoo.datasets.torchvision import has_torchvision_split, open_torchvision
from zoo.errors import UserError, reason_of, without_secrets
from zoo.sources.base import require_single
from zoo.sources.glob_files import matches
from zoo.sources.tar_members import expand
from zoo.sources.tar_samples import samples
from zoo.transforms.decode import EXTENSIONS
from zoo.transforms.image_bytes import read_bytes
from zoo.transforms.unreadable import UnreadableImage

_IMAGE_COLUMNS = ("image", "img", "jpg", "png")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


def open_dataset(source: Path | str, split: str | None = None, label_column: str | None = None) -> Dataset:
    """Open a source of the table above, or one of its splits.

    Args:
        label_column: column of a list or a table that holds the labels; default: the one with a usual name.

    Raises:
        UserError: the source is missing or damaged, holds no images, or has an empty class or missing labels.
    """
    require_there(source)
    text, path = text_of(source), Path(source)
    # The form of the name tells torchvision sets and numbered shards apart.
    if text.startswith("torchvision:"):
        return _open_torchvision(text, split)
    chosen = split_of(text, split) if split else text
    if chosen and takes(chosen):
        name = Path(without_secrets(text)).name  # it is stored with results
        return _open_listed(chosen, name if split is None else f"{name}/{split}", label_column)
    if label_column is not None:
        return _open_tables(path, split, label_column)
    if "{" in path.name and path.name.endswith(".tar"):
        return _open_tar(expand(text), path.stem)
    if path.is_file():
        return _open_file(path, path.stem, split)
    if not path.is_dir():
        raise _no_data(path)
    if split is None:
        return _open_prefix(path, "", path.name) or _open_folder(path, path.name)
    # A split is a folder of its own, or files whose names start with it.
    name = f"{path.name}/{split}"
    if (path / split).is_dir():
        return _open_prefix(path / split, "", name) or _open_folder(path / split, name)
    if (found := _open_prefix(path, split, name)) is not None:
        return found
    raise UserError(
        f"{path} has no {split}/ folder and no {split}*.parquet, {split}*.tar or {split}.npz: "
        f"put the images of each class into {split}/CLASS/"
    )


def require_there(source: Path | str) -> None:
    """Raise UserError where nothing is at a local path; of what is there nothing is read."""
    text = text_of(source)
    if not text or "\0" in text:
        raise UserError(f"no data at {text!r}: the name is empty or has a zero byte")
    has_other_form = text.startswith("torchvision:") or takes(text) or "{" in text
    if not has_other_form and not os.path.exists(text):
        raise _no_data(Path(source))


def _no_data(path: Path) -> UserError:
    return UserError(f"no data at {path}: give a folder of images, a parquet, tar or npz file or a folder of them")


def open_training_data(source: Path | str, label_column: str | None = None) -> Dataset:
    """Open the split ``train`` of a source, or all of a source without splits; see ``open_dataset``."""
    return open_dataset(source, "train" if has_split(source, "train") else None, label_column)


def has_split(source: Path | str, split: str) -> bool:
    """Return whether ``open_dataset(source, split)`` would find the split."""
    if str(source).startswith("torchvision:"):
        return has_torchvision_split(str(source), split)
    path = Path(source)
    if split_of(text_of(source), split) is not None:
        return True
    if path.suffix.lower() == ".npz" and path.is_file():
        return split in splits_of(path)
    return (path / split).is_dir() or any(path.glob(f"{split}*.parquet")) or any(_tars_or_arrays(path, split))


def evaluation_splits(source: Path | str, label_column: str | None = None) -> tuple[Dataset, Dataset]:
    """Open the splits ``train`` and ``test`` of a source, or ``val`` where it has no test split; see ``open_dataset``.

    Raises:
        UserError: a split or its labels are missing, or train lacks a class of the test split.
    """
    train = open_dataset(source, "train", label_column)
    test = open_dataset(source, "test" if has_split(source, "test") else "val", label_column)
    missing = np.setdiff1d(test.required_labels, train.required_labels)
    if len(missing) or (train.classes[: len(test.classes)] != test.classes):
        raise UserError(f"{test.name} has classes that {train.name} lacks: both need the same class names")
    return train, test


def _tars_or_arrays(path: Path, prefix: str) -> list[Path]:
    """Return the tar files of a folder with this prefix, or its .npz and .npy file of this name."""
    arrays = [path / f"{prefix}.npz", path / f"{prefix}.npy"] if prefix else []
    return sorted(path.glob(f"{prefix}*.tar")) or [p for p in arrays if p.is_file()]


def _open_prefix(path: Path, prefix: str, name: str) -> Dataset | None:
    """Open the parquet, tar or array files of a folder with this prefix; ``None`` where there are none."""
    is_result = (path / "_manifest.json").exists() or (path / ".zoo").is_dir()
    parquets, others = sorted(path.glob(f"{prefix}*.parquet")), _tars_or_arrays(path, prefix)
    # `zoo extract PHOTOS --out PHOTOS` leaves the embeddings among the images.
    parquets = [file for file in parquets if not (is_result and file.name.startswith("embeddings-"))]
    if parquets:
        return _open_parquet(parquets, name)
    if not others:
        return None
    return _open_tar(others, name) if others[0].suffix == ".tar" else _open_file(others[0], name, None)


def _open_file(path: Path, name: str, split: str | None) -> Dataset:
    match path.suffix.lower():
        case ".npy":
            return _from_array(open_npy(path), name)
        case ".npz":
            # As runs of earlier versions have stored it, the training images have the file's name alone.
            shown = f"{name}/{split}" if split in ("val", "test") else name
            return _from_array(open_npz(path, split or "train"), shown)
        case ".tar" | ".tgz" | ".gz" | ".bz2" | ".xz" | ".zst":  # the reader refuses compressed ones and says why
            return _open_tar([path], name)
    return _open_parquet([path], name)


def _open_folder(path: Path, name: str) -> Dataset:
    """Open a folder of images; with a folder per class if every image lies in one.

    Links to folders are followed, as torchvision does: a subset of a data set is often a folder of links to classes.
    """
    found = (Path(os.fsdecode(name)) for name in matches(b"**/*", os.fsencode(path)))
    files = sorted(path / p for p in found if _is_visible_image(p) and (path / p).is_file())
    if not files:
        raise UserError(f"no images under {path}")
    # The images have labels only if each lies in a class folder.
    parts = [p.relative_to(path).parts for p in files]
    outside = [p[0] for p in parts if len(p) == 1]
    labelled = not outside
    classes = sorted({p[0] for p in parts}) if labelled else []
    if labelled:
        # An empty class would shift the numbers of the classes after it.
        folders = {p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")}
        if empty := sorted(folders - set(classes)):
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            raise UserError(f"{path / empty[0]}{more}: a class without images: fill the folder or remove it")
    number = {c: n for n, c in enumerate(classes)}
    labels = np.array([number[p[0]] for p in parts], np.int64) if labelled else None
    return Dataset(
        name,
        labels,
        classes,
        lambda i: read_bytes(files[i]),
        lambda i: files[i].relative_to(path).as_posix(),
        len(files),
        lambda i: _file_size(files[i]),
        _why_without_labels(path, outside, len(files)),
    )


def _is_visible_image(path: Path) -> bool:
    """Return whether a path below the folder is an image; hidden files and folders are not (``.ipynb_checkpoints``)."""
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _why_without_labels(path: Path, outside: list[str], images: int) -> str:
    """Name the images beside the class folders; empty where there are no such folders, or no such images."""
    if len(outside) in (0, images):
        return ""
    more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
    return f"{path / outside[0]}{more} lies outside of the class folders: move or remove it"


def _open_tar(shards: list[Path], name: str) -> Dataset:
    found = samples(shards)
    values = [s.label for s in found]
    labels, classes = (None, []) if all(v is None for v in values) else number_labels(values, name)
    return Dataset(
        name,
        labels,
        classes,
        lambda i: found[i].read(),
        lambda i: f"{found[i].shard.path.name}:{found[i].name}",
        len(found),
        lambda i: found[i].size,
    )


def _open_tables(path: Path, split: str | None, label_column: str) -> Dataset:
    files = [path] if path.is_file() else sorted(path.glob(f"{split or ''}*.parquet"))
    if split and (path / split).is_dir():
        files = sorted((path / split).glob("*.parquet"))
    if not files or files[0].suffix.lower() != ".parquet":
        raise UserError(f"--label-column {label_column}: {path} is no list (.csv, .tsv, .jsonl) and no parquet")
    return _open_parquet(files, path.stem if split is None else f"{path.name}/{split}", label_column)


def _open_listed(text: str, name: str, label_column: str | None) -> Dataset:
    listed = Listed(text, label_column)
    values = listed.labels()
    labels, classes = (None, []) if values is None else number_labels(values, name)
    why = "" if labels is not None else f"give it a column {', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]}"
    return Dataset(
        name,
        labels,
        classes,
        listed.read,
        listed.name,
        len(listed),
        lambda i: listed.row(i)["size"],
        without_labels=why,
    )


def _from_array(array: PixelArray, name: str) -> Dataset:
    classes = [] if array.labels is None else number_names(int(array.labels.max()) + 1, name)
    return Dataset(name, array.labels, classes, array.read, lambda i: f"row {i}", len(array.images))


def _open_torchvision(source: str, split: str | None) -> Dataset:
    data = open_torchvision(source, split)
    classes = data.classes
    if data.labels is not None and len(classes) <= (largest := int(data.labels.max())):
        classes = [str(n) for n in range(largest + 1)]
    return Dataset(data.name, data.labels, classes, data.read, lambda i: f"row {i}", data.length)


def _open_parquet(files: list[Path], name: str, label_column: str | None = None) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from zoo.system.parquet import read_table

    # the columns, found by their usual names in the first file
    try:
        columns = pq.read_schema(files[0]).names
        image = next((c for c in _IMAGE_COLUMNS if c in columns), None)
        label = label_column or next((c for c in _LABEL_COLUMNS if c in columns), None)
        if label_column is not None and label_column not in columns:
            raise UserError(f"{files[0]} has no column {label_column}; it has {', '.join(columns)}")
        if image is None:
            raise UserError(
                f"{files[0]} has no image column ({', '.join(_IMAGE_COLUMNS)}); it has {', '.join(columns)}"
            )
        require_single(columns, [image, label or ""], files[0])
        table = pa.concat_tables([read_table(f, [image] + ([label] if label else [])) for f in files])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: {reason_of(error)}") from None
    if not table.num_rows:
        raise UserError(f"{name}: no images in {files[0].name}: it has no rows")
    # Some writers nest the bytes in a struct.
    column = table[image].combine_chunks() if table[image].num_chunks == 1 else table[image]
    if pa.types.is_struct(column.type):  # Hugging Face datasets: {bytes, path}
        if column.type.get_field_index("bytes") < 0:
            raise UserError(f"{name}: column {image} holds {column.type}: it must hold the bytes of image files")
        column = pa.chunked_array([c.field("bytes") for c in table[image].chunks])
    # Labels become whole numbers, with the class names beside them.
    labels, classes = number_labels(table[label].to_pylist(), name) if label else (None, [])

    def get(index: int) -> bytes:
        value = column[index].as_py()
        if not isinstance(value, bytes):
            raise UnreadableImage("empty", "the row holds no image bytes")
        return value

    return Dataset(name, labels, classes, get, lambda i: f"row {i}", table.num_rows)
