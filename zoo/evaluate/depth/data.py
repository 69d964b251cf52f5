"""Pictures with 16-bit depth images (0 unknown), or NYU v2's two MATLAB files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.errors import UserError, reason_of
from zoo.evaluate.dense.augment import FLIP_STREAM, Pairs, draws, pair_folders, short_side_to
from zoo.evaluate.dense.schedules import Depth
from zoo.system.atomic_files import sha256_file

_NYU, _NYU_SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
_TEST_PART = 5  # of a folder without splits the last fifth, in the order of names


class Frames(Protocol):
    """RGB frames with depth in metres, 0 where it is unknown."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def sha256(self) -> str: ...

    def frame(self, row: int) -> tuple[Image.Image, NDArray[np.float32]]:
        """RGB picture and float32 [H, W] of the same size, metres."""


@dataclass(frozen=True)
class PngFrames:
    """Picture and 16-bit image per frame; ``unit`` is the value of one metre."""

    pairs: Pairs
    unit: float

    @property
    def name(self) -> str:
        return self.pairs.name

    def __len__(self) -> int:
        return len(self.pairs)

    def sha256(self) -> str:
        return self.pairs.sha256()

    def frame(self, row: int) -> tuple[Image.Image, NDArray[np.float32]]:
        image, values = self.pairs.read(row)
        if values.dtype != np.uint16:
            raise UserError(f"{self.pairs.annotations[row]} has 8 bits a pixel: depth images have 16")
        if not values.any():
            raise UserError(f"{self.pairs.annotations[row]} knows no depth at all: remove it and its picture")
        return image, (values / self.unit).astype(np.float32)


@dataclass(frozen=True)
class NyuFrames:
    """Rows of NYU v2's labelled set, read from the file when asked for."""

    path: Path
    rows: Sequence[int]
    name: str

    def __len__(self) -> int:
        return len(self.rows)

    def sha256(self) -> str:
        both = sha256_file(self.path) + sha256_file(self.path.with_name(_NYU_SPLITS)) + self.name
        return hashlib.sha256(both.encode()).hexdigest()

    def frame(self, row: int) -> tuple[Image.Image, NDArray[np.float32]]:
        with _h5(self.path) as file:  # MATLAB stores columns first: [3, W, H] and [W, H]
            pixels = np.asarray(file["images"][self.rows[row]]).transpose(2, 1, 0)
            metres = np.asarray(file["depths"][self.rows[row]], np.float32).T
        return Image.fromarray(np.ascontiguousarray(pixels)), np.ascontiguousarray(metres)


def splits(data: Path, protocol: Depth) -> tuple[Frames, Frames]:
    """Train and test: NYU's official split, ``DIR/train`` and ``DIR/test``, or the last fifth of a flat folder.

    In a folder, NAME.jpg goes with NAME.png; or ``DIR/train`` with ``DIR/train-depth``.

    Raises:
        UserError: none of these there, or a frame without depth.
    """
    if (data / _NYU).is_file():
        return _nyu(data)
    if (data / "train").is_dir():
        test = "test" if (data / "test").is_dir() else "val"
        return _folder(data, "train", protocol.unit), _folder(data, test, protocol.unit)
    if not data.is_dir():
        raise UserError(f"no folder {data}")
    pairs = pair_folders(data, data, data.name)
    first = len(pairs) - max(1, len(pairs) // _TEST_PART)
    if first < 1:
        raise UserError(f"{data} has one frame: training and testing need two")
    train, test_pairs = pairs.subset(range(first)), pairs.subset(range(first, len(pairs)))
    return PngFrames(train, protocol.unit), PngFrames(test_pairs, protocol.unit)


def prepare(frames: Frames, row: int, protocol: Depth) -> tuple[Image.Image, NDArray[np.float32]]:
    """Resized to the short side and cropped at the centre; depth by the nearest neighbour, as 0 cannot be mixed."""
    image, metres = frames.frame(row)
    size = short_side_to(image.size, protocol.short_side)
    width, height = protocol.crop
    if size[0] < width or size[1] < height:
        raise UserError(
            f"{frames.name}: a frame of {image.width} x {image.height} is {size[0]} x {size[1]} at the short side "
            f"{protocol.short_side}, less than the crop of {width} x {height}: change them with --set"
        )
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    box = (left, top, left + width, top + height)
    plane = Image.fromarray(metres).resize(size, Image.Resampling.NEAREST)
    return image.resize(size, Image.Resampling.BILINEAR).crop(box), np.array(plane.crop(box), np.float32)


def augmented(
    frames: Frames, row: int, protocol: Depth, seed: int, epoch: int
) -> tuple[Image.Image, NDArray[np.float32]]:
    """``prepare``, flipped with the protocol's probability."""
    image, metres = prepare(frames, row, protocol)
    if draws(seed, FLIP_STREAM, epoch, row, 1)[0] < protocol.flip:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), np.ascontiguousarray(metres[:, ::-1])
    return image, metres


def _folder(data: Path, split: str, unit: float) -> PngFrames:
    beside = data / f"{split}-depth"
    annotations = beside if beside.is_dir() else data / split
    return PngFrames(pair_folders(data / split, annotations, f"{data.name}/{split}"), unit)


def _nyu(data: Path) -> tuple[Frames, Frames]:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise UserError("NYU v2's files need scipy: pip install 'siamese-zoo[eval]'") from None
    try:
        lists = loadmat(data / _NYU_SPLITS)
        train, test = (lists[name].ravel().astype(int) - 1 for name in ("trainNdxs", "testNdxs"))
    except (MatReadError, OSError, KeyError, ValueError, NotImplementedError) as error:
        raise UserError(f"{data / _NYU_SPLITS} is not NYU v2's list of splits ({error})") from None
    with _h5(data / _NYU) as file:
        if not {"images", "depths"} <= set(file) or max(*train, *test) >= len(file["images"]):
            raise UserError(f"{data / _NYU} does not hold the images and depths of its splits")
    path = data / _NYU
    return NyuFrames(path, train.tolist(), "NYUv2/train"), NyuFrames(path, test.tolist(), "NYUv2/test")


def _h5(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise UserError("NYU v2's files need h5py: pip install 'siamese-zoo[eval]'") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason_of(error)})") from None
