"""Arrays and tensors as images: which layouts are images, and what to do about the others."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.transforms.unreadable import UnreadableImage

FORMS = "an array [H, W, 3] or [H, W] is, and so is a tensor [3, H, W], uint8 or float in [0, 1]"
_CHANNELS = (1, 3, 4)  # gray, RGB, RGBA


def described(image: Any) -> str:
    """Describe an array or tensor as its owner sees it, anything else by its class."""
    if not (hasattr(image, "shape") and hasattr(image, "dtype")):
        return f"{type(image).__name__}"
    kind = "a tensor" if _is_tensor(image) else "an array"
    return f"{kind} of shape {tuple(image.shape)} and type {str(image.dtype).removeprefix('torch.')}"


def not_an_image(image: Any) -> str | None:
    """Return what to give instead of something that is no array or tensor of an image; ``None`` if it is one."""
    if hasattr(image, "columns") and hasattr(image, "iloc"):
        return f"give one of its columns, {', '.join(map(repr, list(image.columns)[:5]))}"
    if not (hasattr(image, "shape") and hasattr(image, "dtype")):
        return _no_array(image)
    shape = tuple(image.shape)
    if len(shape) == 3 and shape[0 if _is_tensor(image) else 2] not in _CHANNELS:
        return _turned(image, shape) or FORMS
    return _no_pixels(image) if len(shape) in (2, 3) else FORMS


def not_a_batch(images: Any) -> str | None:
    """Return what to give instead of an array or tensor of several that holds no images; else ``None``."""
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) < 2:  # no array, or one of paths
        return None
    if len(shape) == 4 and shape[1 if _is_tensor(images) else 3] in _CHANNELS:
        return None
    forms = "an array [N, H, W, 3] is, and so is a tensor [N, 3, H, W], uint8 or float in [0, 1]"
    return (_turned(images, shape) if len(shape) == 4 else None) or forms


def as_uint8(image: Any) -> NDArray[np.uint8]:
    """Convert what ``not_an_image`` found to be one to uint8 [H, W, C].

    Raises:
        UserError: it has floats outside of [0, 1].
    """
    if _is_tensor(image):
        image = image.detach().cpu()
        try:
            array: NDArray[Any] = image.numpy()
        except TypeError:  # NumPy has no bfloat16
            array = image.float().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if not np.issubdtype(array.dtype, np.floating):
        return array
    least, most = (float(array.min()), float(array.max())) if array.size else (np.nan, np.nan)
    if not (least >= 0 and most <= 1):
        do = "divide them by 255" if least >= 0 and most <= 255 else "give normalised ones to embedder.model"
        raise UserError(f"{described(image)} must hold values in [0, 1], not {least:.4g} to {most:.4g}: {do}")
    return np.round(array * 255).astype(np.uint8)


def hint_of_path(source: object, error: UnreadableImage) -> str:
    """Return what to do about a path that is no file, with a colon before it; nothing about other errors."""
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    if not isinstance(text, str) or error.reason not in ("missing", "not-a-file"):
        return ""
    if error.reason == "not-a-file" and os.path.isdir(text):
        return ": give the paths of its images, or embed it by `zoo extract`"
    if "://" in text or text.startswith(("http:/", "https:/", "s3:/")):  # a Path has one slash
        return ": a URL must be downloaded first"
    return ": a pattern; give the paths that it names" if any(sign in text for sign in "*?[") else ""


def _no_array(image: object) -> str:
    if isinstance(image, list | tuple):
        pair = "; of pairs with a label give the first of each" if isinstance(image, tuple) else ""
        return f"give images in one list, not in a list of lists{pair}"
    if isinstance(image, dict) and image.get("bytes") is not None:
        return "give its ['bytes']"
    return FORMS


def _turned(image: Any, shape: tuple[int, ...]) -> str | None:
    """Return how to move the channels to the other end; ``None`` if there are none."""
    first = len(shape) - 3
    if _is_tensor(image) and shape[-1] in _CHANNELS:
        return f"move the channels to the front, .permute({'0, 3, 1, 2' if first else '2, 0, 1'})"
    if not _is_tensor(image) and shape[first] in _CHANNELS:
        return f"move the channels to the end, .transpose({'0, 2, 3, 1' if first else '1, 2, 0'})"
    return None


def _no_pixels(image: Any) -> str | None:
    name = str(image.dtype).removeprefix("torch.")
    if name == "uint8" or "float" in name:
        return None
    if "int16" in name:
        return f"{FORMS}; 16 bits: divide by 65535.0, or what white is"
    if name == "bool" or "int" in name:
        return f"{FORMS}; {'multiply by 1.0' if name == 'bool' else 'values of 0 to 255: convert them to uint8'}"
    return FORMS


def _is_tensor(image: object) -> bool:
    return hasattr(image, "detach")
