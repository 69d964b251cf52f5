"""Images with 16-bit depth images, or NYU v2's two MATLAB files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.errors import UserError, reason_of
from zoo.evaluate.dense.augment import FLIP_STREAM, AnnotatedImages, draw_uniforms, resized_size
from zoo.evaluate.dense.schedules import DepthSchedule
from zoo.evaluate.depth.colours import change_colours
from zoo.evaluate.depth.matlab import read_matrices
from zoo.system.atomic_files import sha256_file

_NYU, _NYU_SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
_MAX_FRAME_BYTES = 64 << 20  # NYU v2 has 1449 frames of 1 MB
_TEST_PART = 5  # a flat folder is split: the last fifth, in the order of names, is the test split


class DepthFrames(Protocol):
    """RGB images with depth in metres, 0 where it is unknown."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def sha256(self) -> str: ...

    def frame(self, row: int) -> tuple[Image.Image, NDArray[np.float32]]:
        """Return the RGB image and float32 [H, W] of the same size, in metres."""


@dataclass(frozen=True)
class PngFrames:
    """An image file and a 16-bit depth image per frame; ``unit`` is the value that stands for one metre."""

    images: AnnotatedImages
    unit: float

    @property
    def name(self) -> str:
        return self.images.name

    def __len__(self) -> int:
        return len(self.images)

    def sha256(self) -> str:
        return self.images.sha256()

    def frame(self, row: int) -> tuple[Image.Image, NDArray[np.float32]]:
        image, values = self.images.read(row)
        if values.dtype != np.uint16:
            raise UserError(f"{self.images.annotations[row]} has 8 bits a pixel: depth images have 16")
        if not values.any():
            raise UserError(f"{self.images.annotations[row]} knows no depth at all: remove it and its image")
        return image, (values / self.unit).astype(np.float32)


@dataclass(frozen=True)
class NyuFrames:
    """Rows of NYU v2's labelled set, read from the file on demand."""

    path: Path
    rows: Sequence[int]
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    def sha256(self) -> str:
        both = sha256_file(self.path) + sha256_file(self.path.with_name(_NYU_SPLITS)) + self.name
        return hashlib.sha256(both.encode()).hexdigest()

    def frame(self, row: int) -> tuple[Image.Image, NDArray[np.float32]]:
        with _open_h5(self.path) as file:  # MATLAB stores columns first: [3, W, H] and [W, H]
            pixels = np.asarray(file["images"][self.rows[row]]).transpose(2, 1, 0)
            metres = np.asarray(file["depths"][self.rows[row]], np.float32).T
        metres = np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))  # a float can be NaN or infinite
        return Image.fromarray(np.ascontiguousarray(pixels)), np.ascontiguousarray(metres)


def open_depth_data(data: Path, schedule: DepthSchedule) -> tuple[DepthFrames, DepthFrames]:
    """Open train and test: NYU's official split, ``DIR/train`` and ``DIR/test``, or a flat folder, its last fifth test.

    In a folder, NAME.jpg goes with NAME.png; or ``DIR/train`` goes with ``DIR/train-depth``.

    Raises:
        UserError: none of these is there, or a frame has no depth.
    """
    # The official files of NYU v2 have precedence over folders.
    if (data / _NYU).is_file():
        return _open_nyu(data)
    if (data / "train").is_dir():
        test = "test" if (data / "test").is_dir() else "val"
        return _open_folder(data, "train", schedule.unit), _open_folder(data, test, schedule.unit)
    if not data.is_dir():
        raise UserError(f"no folder {data}")
    # A flat folder gives its last part to the test.
    images = AnnotatedImages.from_folders(data.name, data, data)
    first = len(images) - max(1, len(images) // _TEST_PART)
    if first < 1:
        raise UserError(f"{data} has one frame: training and testing need two")
    rows = range(first), range(first, len(images))
    train_frames, test_frames = (PngFrames(images.subset(part), schedule.unit) for part in rows)
    return train_frames, test_frames


def center_crop(frames: DepthFrames, row: int, schedule: DepthSchedule) -> tuple[Image.Image, NDArray[np.float32]]:
    """Return a frame resized to the short side and cropped; depth by the nearest neighbour, as 0 cannot be mixed.

    Raises:
        UserError: the resized frame is smaller than the crop.
    """
    # The resized frame must hold the whole crop.
    image, metres = frames.frame(row)
    size = resized_size(image.size, schedule.short_side)
    width, height = schedule.crop
    if size[0] < width or size[1] < height:
        raise UserError(
            f"{frames.name}: a frame of {image.width} x {image.height} is {size[0]} x {size[1]} at the short side "
            f"{schedule.short_side}, less than the crop of {width} x {height}: change them with --set"
        )
    # Image and depth share one box in the middle.
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    box = (left, top, left + width, top + height)
    plane = Image.fromarray(metres).resize(size, Image.Resampling.NEAREST)
    return image.resize(size, Image.Resampling.BILINEAR).crop(box), np.array(plane.crop(box), np.float32)


def training_crop(
    frames: DepthFrames, row: int, schedule: DepthSchedule, seed: int, epoch: int
) -> tuple[Image.Image, NDArray[np.float32]]:
    """Return ``center_crop``, flipped with the schedule's probability, and the image's colours changed."""
    image, metres = center_crop(frames, row, schedule)
    image = change_colours(image, schedule, seed, epoch, row)
    if draw_uniforms(seed, FLIP_STREAM, epoch, row, 1)[0] < schedule.flip:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), np.ascontiguousarray(metres[:, ::-1])
    return image, metres


def _open_folder(data: Path, split: str, unit: float) -> PngFrames:
    beside = data / f"{split}-depth"
    annotations = beside if beside.is_dir() else data / split
    return PngFrames(AnnotatedImages.from_folders(f"{data.name}/{split}", data / split, annotations), unit)


def _open_nyu(data: Path) -> tuple[DepthFrames, DepthFrames]:
    # Matlab counts rows from 1.
    try:
        lists = read_matrices(data / _NYU_SPLITS)
        train, test = (lists[name].astype(np.int64) - 1 for name in ("trainNdxs", "testNdxs"))
        if not len(train) or not len(test) or min(train.min(), test.min()) < 0:
            raise ValueError("a split without frames, or with a frame 0")
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{data / _NYU_SPLITS} is not NYU v2's list of splits ({reason_of(error)})") from None
    path = data / _NYU
    # The splits must fit the images before hours of work begin.
    with _open_h5(path) as file:
        frames = [f for name, n in (("images", 4), ("depths", 3)) if (f := _frames(file, name, n)) is not None]
        if len(frames) < 2 or max(train.max(), test.max()) >= min(len(f) for f in frames):
            raise UserError(f"{path} does not hold the images and depths of its splits")
    return NyuFrames(path, train.tolist(), "NYUv2/train"), NyuFrames(path, test.tolist(), "NYUv2/test")


def _frames(file: Any, name: str, dimensions: int) -> Any | None:
    """Return a data set of frames whose numbers lie in this file, and of which one fits into memory; else ``None``."""
    import h5py

    # A link or an external storage could name any file of this machine.
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual or found.ndim != dimensions:
        return None
    # HDF5 reads a frame, and for that the chunks that it lies in; neither need be in the file to be allocated.
    sizes = math.prod(found.shape[1:]), math.prod(found.chunks or (1,))
    plain = found.dtype.kind in "iuf" and (dimensions == 3 or found.shape[1] == 3)
    return found if plain and max(sizes) * found.dtype.itemsize <= _MAX_FRAME_BYTES else None


@contextmanager
def _open_h5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file; what HDF5 finds damaged, then or later, is a UserError."""
    try:
        import h5py
    except ImportError:
        raise UserError("NYU v2's files need h5py: pip install 'siamese-zoo[eval]'") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # h5py raises KeyError, OSError, RuntimeError and others for damage
        raise UserError(f"{path} cannot be read ({reason_of(error)})") from None
