"""Anything that holds an image -> an upright RGB PIL image; and the preprocessing alone, for data loaders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.errors import UserError, reason_of
from zoo.inference.arrays import FORMS, as_uint8, described, hint_of_path, not_a_batch, not_an_image
from zoo.transforms import decode as decoder
from zoo.transforms.image_bytes import read_bytes
from zoo.transforms.limits import MAX_BYTES
from zoo.transforms.preprocess import Preprocessing
from zoo.transforms.unreadable import UnreadableImage

if TYPE_CHECKING:
    from torch import Tensor

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.generic] | Tensor"
"""One image: a path; the bytes of an image file; a file open for reading in binary mode, BytesIO too; a PIL image; an
array [H, W, 3] (RGB; OpenCV's BGR is ``image[:, :, ::-1]``), [H, W, 4] (RGBA, over white), [H, W, 1] or [H, W]; a
tensor [C, H, W] of as many channels, or [H, W]. Arrays and tensors are uint8, or float in 0..1."""
Images: TypeAlias = "ImageLike | Iterable[ImageLike]"
"""One image or several; an array [N, H, W, C] or a tensor [N, C, H, W] is N images."""

_BLOCK = 1 << 22


@dataclass(frozen=True)
class ImageTransform:
    """Preprocess one image for ``Embedder.model``: any form of an image -> float32 tensor [3, H, W], normalised.

    It holds no network: it pickles in a few hundred bytes, and the workers of a ``DataLoader`` open no weights.
    """

    preprocessing: Preprocessing

    def __call__(self, image: ImageLike) -> Tensor:
        import torch

        with usable():
            pixels = self.preprocessing.pixels(as_rgb(image))
        return torch.from_numpy(self.preprocessing.normalise(pixels[None])[0])


@contextmanager
def usable(what: str = "an image") -> Iterator[None]:
    """Turn what preprocessing refuses, such as an image that is too long and thin, into a UserError."""
    try:
        yield
    except UnreadableImage as error:
        raise UserError(f"{what} cannot be used: {error}") from None


def as_rgb(image: ImageLike) -> Image.Image:
    """Convert one image of any form to an upright RGB PIL image.

    Raises:
        UserError: it cannot be read as one image.
    """
    # Files are decoded, and turned upright as the camera says.
    if isinstance(image, str | os.PathLike):
        return _decoded(_home_expanded(image), os.fspath(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return _decoded(bytes(image), f"an image of {len(bytes(image))} bytes")
    if _is_file(image):
        return _decoded(_content(image), f"the file {getattr(image, 'name', type(image).__name__)}")
    if isinstance(image, Image.Image):
        with usable("a PIL image"):
            return decoder.to_rgb(image)
    # Arrays and tensors are checked for the layout of an image.
    if (hint := not_an_image(image)) is not None:
        raise UserError(f"{described(image)} is not an image: {hint}")
    pixels = as_uint8(image)
    if 0 in pixels.shape:
        raise UserError(f"{described(image)} is not an image: {FORMS}")
    if pixels.shape[-1] == 4:  # by the rule for files
        return decoder.to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def each_image(images: Any) -> Iterator[Image.Image]:
    """Iterate over one image or several, each as ``as_rgb`` returns it; a generator is read as it is used.

    Raises:
        UserError: one is no image; where there are several, the message counts them from 0.
    """
    if _is_one(images):
        yield as_rgb(images)
        return
    if isinstance(images, Mapping | Set):
        raise UserError(f"a {type(images).__name__} of images has no order that rows could have: give a list")
    if (hint := not_a_batch(images)) is not None:
        raise UserError(f"{described(images)} is no batch of images: {hint}")
    try:
        several = iter(images)
    except TypeError:
        raise UserError(
            f"{type(images).__name__} is not an image: give paths, bytes, files, PIL images, arrays or tensors"
        ) from None
    for number, image in enumerate(several):
        try:
            rgb = as_rgb(image)
        except UserError as error:
            if isinstance(image, str | os.PathLike):  # its name says which one it is
                raise
            raise UserError(f"image {number}: {error}") from None
        yield rgb


def count_of(images: Any) -> int | None:
    """Return how many images these are; ``None`` for a generator, whose length nobody knows."""
    if _is_one(images):
        return 1
    return len(images) if hasattr(images, "__len__") else None


def _is_one(images: Any) -> bool:
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or _is_file(images):
        return True
    return hasattr(images, "shape") and len(images.shape) in (2, 3)


def _is_file(image: object) -> bool:
    return hasattr(image, "read") and not hasattr(image, "shape")


def _content(file: Any) -> bytes:
    """Read an open file from its beginning, as Pillow does: a BytesIO that was just written stands at its end."""
    blocks: list[bytes] = []
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        # A socket or a file in an archive gives a part at a time.
        while (block := file.read(_BLOCK)) and sum(map(len, blocks)) <= MAX_BYTES:
            blocks.append(block)
        return b"".join(blocks)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise UserError(f"an open file cannot be read: {reason_of(error)}") from None
    except TypeError:
        raise UserError(f"the file {getattr(file, 'name', '')} is open as text: open it with mode 'rb'") from None


def _decoded(source: str | os.PathLike[str] | bytes, name: str) -> Image.Image:
    try:
        data = source if isinstance(source, bytes) else read_bytes(source)
        if len(data) > MAX_BYTES:
            raise UnreadableImage("too-large", f"more than {MAX_BYTES} bytes")
        return decoder.decode(data)
    except UnreadableImage as error:
        raise UserError(f"{name} cannot be read: {error}{hint_of_path(source, error)}") from None


def _home_expanded(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Expand ``~/a.jpg``, as the commands do, unless there is a folder of that name."""
    text = os.fspath(path)
    return os.path.expanduser(text) if text.startswith("~") and not os.path.lexists(text) else path
