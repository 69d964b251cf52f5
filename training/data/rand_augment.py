"""RandAugment as InfoMin's official code has it, on 8-bit images by Pillow (HobbitLong/PyContrast at 84f94ea, PYC).

Operations, levels and probabilities are those of PYC ``datasets/RandAugment.py`` with ``rand-n2-m10-mstd0.5``, as
``datasets/util.py:279-300`` asks for it. It runs on the host, whatever the device of the views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from zoo.numerics.counter_rng import uniforms

OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeTpu",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
FILL = (124, 116, 104)  # round(255 x ImageNet's mean)
_STREAM = 1 << 20  # added to the view's stream
_PROBABILITY = 0.5  # of each drawn operation
_MAGNITUDE, _DEVIATION = 10.0, 0.5
_MAX = 10.0  # of a magnitude
_ENHANCE = {
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Brightness": ImageEnhance.Brightness,
    "Sharpness": ImageEnhance.Sharpness,
}


@dataclass(frozen=True)
class Drawn:
    """What was drawn for B samples, ``layers`` operations each.

    Attributes:
        operation: int64 [B, layers], into ``OPERATIONS``; -1 where nothing is done.
        magnitude: float64 [B, layers], between 0 and 10.
        negative, bicubic: bool [B, layers], sign and interpolation of the geometric ones.
    """

    operation: NDArray[np.int64]
    magnitude: NDArray[np.float64]
    negative: NDArray[np.bool_]
    bicubic: NDArray[np.bool_]


def draw(layers: int, indices: NDArray[np.int64], *, seed: int, epoch: int | NDArray[np.int64], stream: int) -> Drawn:
    """Draw operations with replacement, a function of the seed, the view's stream, the epoch and the sample."""
    u = uniforms(seed, stream + _STREAM, epoch, indices, 6 * layers).reshape(len(indices), layers, 6)
    chosen = np.where(u[..., 1] < _PROBABILITY, (u[..., 0] * len(OPERATIONS)).astype(np.int64), -1)
    normal = np.sqrt(-2 * np.log(1 - u[..., 2])) * np.cos(2 * np.pi * u[..., 3])  # Box and Muller
    magnitude = np.clip(_MAGNITUDE + _DEVIATION * normal, 0, _MAX)
    return Drawn(chosen, magnitude, u[..., 4] > 0.5, u[..., 5] < 0.5)


def apply_drawn(images: Tensor, drawn: Drawn, samples: Tensor) -> Tensor:
    """Change images [n, 3, H, W] in [0, 1], which are samples [n] of ``drawn``; they are rounded to 8 bits first."""
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    changed = [_changed(image, drawn, int(sample)) for image, sample in zip(pixels, samples.tolist(), strict=True)]
    found = torch.from_numpy(np.stack(changed)).to(images.device).permute(0, 3, 1, 2)
    return found.to(images.dtype).div(255).contiguous()


def _changed(pixels: NDArray[np.uint8], drawn: Drawn, sample: int) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    layers = (drawn.operation, drawn.magnitude, drawn.negative, drawn.bicubic)
    for number, magnitude, negative, bicubic in zip(*(values[sample] for values in layers), strict=True):
        if number >= 0:
            image = operate(image, OPERATIONS[number], float(magnitude), negative=bool(negative), bicubic=bool(bicubic))
    return np.asarray(image)


def argument(name: str, magnitude: float, size: tuple[int, int] = (1, 1), *, negative: bool = False) -> float:
    """Return what an operation gets: degrees, a shear, pixels, a factor, bits, a threshold or an addend.

    Args:
        size: width and height of the image in pixels.
    """
    level, sign = magnitude / _MAX, -1 if negative else 1
    match name:
        case "Rotate":
            return sign * level * 30
        case "ShearX" | "ShearY":
            return sign * level * 0.3
        case "TranslateXRel" | "TranslateYRel":
            return sign * level * 0.45 * size[name == "TranslateYRel"]
        case "PosterizeTpu":
            return int(level * 4)
        case "Solarize":
            return int(level * 256)
        case "SolarizeAdd":
            return int(level * 110)
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return level * 1.8 + 0.1
        case _:
            return 0.0


def operate(image: Image.Image, name: str, magnitude: float, *, negative: bool, bicubic: bool) -> Image.Image:
    """Apply one operation to an RGB image; ``negative`` and ``bicubic`` matter to the geometric ones only."""
    value = argument(name, magnitude, image.size, negative=negative)
    resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    match name:
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Invert":
            return ImageOps.invert(image)
        case "PosterizeTpu":
            return ImageOps.posterize(image, int(value))
        case "Solarize":
            return ImageOps.solarize(image, int(value))
        case "SolarizeAdd":
            table = [min(255, v + int(value)) if v < 128 else v for v in range(256)]
            return image.point(table * 3)
        case "Rotate":
            return image.rotate(value, resample=resample, fillcolor=FILL)
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return _ENHANCE[name](image).enhance(value)
    matrix = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateXRel": (1, 0, value, 0, 1, 0),
        "TranslateYRel": (1, 0, 0, 0, 1, value),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=FILL)
