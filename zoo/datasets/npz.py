"""Small images as one uint8 array in a .npy or .npz file."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError, reason_of

_FREE_EXPANSION, _MAX_EXPANSION = 128 << 20, 64  # drawings compress up to 20 times
_SPLITS = ("train", "val", "test")
_IMAGES, _LABELS = ("images", "x", "data"), ("labels", "y", "targets")  # names of the arrays in an .npz file


@dataclass(frozen=True)
class PixelArray:
    """Images uint8 [N, H, W, 3], in memory or mapped from a file, and labels int64 [N] or ``None``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return a copy of the pixels of a row, uint8 [H, W, 3]."""
        return np.array(self.images[index])


def open_npy(path: Path) -> PixelArray:
    """Map NAME.npy, with labels from NAME.labels.npy if that is there.

    Raises:
        UserError: a file is damaged or holds no images.
    """
    beside = path.with_suffix(".labels.npy")
    with _readable(path):
        for file in (path, beside):
            if file.exists():
                with file.open("rb") as opened:
                    _check_header(opened, file.stat().st_size)
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        labels = np.load(beside, allow_pickle=False) if beside.exists() else None
    return _check(images, labels, path)


def splits_of(path: Path) -> set[str]:
    """Return the splits that an .npz file names before its arrays, as in ``test_images``; none if it is damaged."""
    try:
        with zipfile.ZipFile(path) as members:
            names = {member.removesuffix(".npy") for member in members.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return set()
    return {split for split in _SPLITS if any(f"{split}_{key}" in names for key in _IMAGES)}


def open_npz(path: Path, split: str) -> PixelArray:
    """Read the arrays ``images`` and ``labels`` of an .npz file, or ``train_images`` and so on where it has splits.

    Args:
        split: ``train`` is the whole of a file without splits.

    Raises:
        UserError: the file is damaged, holds no images, lacks the split, or does not fit into memory.
    """
    with _readable(path):
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("no .npz file")
        with file:
            # Check the unpacked sizes before anything is read: those of the archive, and those that the arrays claim.
            with zipfile.ZipFile(path) as members:
                expanded, size = sum(m.file_size for m in members.infolist()), path.stat().st_size
                require_memory(expanded, path.name)
                if expanded > _FREE_EXPANSION + _MAX_EXPANSION * size:
                    raise ValueError(f"it expands from {size} bytes to {expanded}")
                for member in members.infolist():
                    if member.filename.endswith(".npy"):
                        with members.open(member) as opened:
                            _check_header(opened, member.file_size)
            # A file with splits has a prefix before the names of its arrays.
            prefix = "" if split == "train" and split not in splits_of(path) else f"{split}_"
            images, labels = (
                next((file[prefix + k] for k in keys if prefix + k in file.files), None) for keys in (_IMAGES, _LABELS)
            )
            if images is None:
                raise UserError(f"{path} has no array {prefix}images; it has {_shown(file.files) or 'none'}")
    return _check(images, labels, path)


def _shown(names: list[str]) -> str:
    return ", ".join(name[:60] if name.isprintable() else ascii(name[:60]) for name in names[:10])


def _check_header(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless the shape in the header of an .npy file fits the ``size`` bytes of the file."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of objects, which are never read")
    if not all(n >= 0 for n in shape) or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array of {' x '.join(map(str, shape))[:100]} {dtype} in {size} bytes")


def require_memory(size: int, name: str) -> None:
    """Raise UserError unless ``size`` bytes fit well into the free memory; do nothing where that is not known."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not Linux
        return
    if size > 0.9 * free:
        raise UserError(f"{name} needs {size / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free: read it from files")


def _check(images: NDArray[Any], labels: NDArray[Any] | None, path: Path) -> PixelArray:
    """Return the arrays as [N, H, W, 3] and int64 [N]; gray images are repeated over the channels."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise UserError(f"{path}: images must be uint8 [N, H, W, 3] or [N, H, W], not {images.dtype} {images.shape}")
    if 0 in images.shape:
        raise UserError(f"{path} holds no images")
    if images.ndim == 3 and images.shape[2] == 3:
        raise UserError(f"{path}: {images.shape} is one RGB image, or gray ones of 3 pixels: give uint8 [N, H, W, 3]")
    if images.ndim == 3:
        images = np.broadcast_to(images[..., None], (*images.shape, 3))
    if labels is None:
        return PixelArray(images, None)
    labels = labels.reshape(len(labels)) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or not _fits(labels):
        raise UserError(f"{path}: labels must be {len(images)} whole numbers from 0, not {labels.dtype} {labels.shape}")
    return PixelArray(images, labels.astype(np.int64))


def _fits(labels: NDArray[Any]) -> bool:
    """Return whether whole numbers lie in 0..2^63-1; a larger uint64 would become negative."""
    return int(labels.min()) >= 0 and int(labels.max()) <= np.iinfo(np.int64).max


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise UserError for everything that numpy raises for a damaged or hostile file."""
    try:
        yield
    except MemoryError:
        raise UserError(f"{path} does not fit into memory") from None
    except UserError:
        raise
    except Exception as error:  # numpy parses a header with Python's own parser, which raises nearly anything
        raise UserError(f"{path} cannot be read as images ({reason_of(error)})") from None
