"""Image operations on batches with a parameter per sample: float [B, 3, H, W] in [0, 1] -> the same, clipped.

Two sets, as the papers' codes differ: BYOL's (TF-like: additive brightness, contrast about each channel's mean, hue
and saturation in HSV) and torchvision's (SimSiam, MoCo v2), both here in float without 8-bit rounding in between.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------- crops


def crop_resize(image: Tensor, box: Tensor, size: int, kernel: str = "bicubic") -> Tensor:
    """Resize of a box per sample.

    Args:
        image: float [B, 3, H, W].
        box: int [B, 4]: top, left, height, width in pixels, inside the image.
        size: side of the output.
        kernel: ``bicubic`` is TF's ``resize`` (Keys a = -.5, no antialias), ``bilinear_antialias`` PIL's bilinear.

    Returns:
        [B, 3, size, size], clipped to [0, 1] (a bicubic overshoots).
    """
    matrix = _bicubic_matrix if kernel == "bicubic" else _antialiased_matrix
    rows = matrix(box[:, 0], box[:, 2], image.shape[2], size).to(image.dtype)  # [B, size, H]
    cols = matrix(box[:, 1], box[:, 3], image.shape[3], size).to(image.dtype)  # [B, size, W]
    narrowed = torch.matmul(image, cols.transpose(1, 2)[:, None])  # [B, 3, H, size]
    return torch.matmul(rows[:, None], narrowed).clamp_(0, 1)


def _distances(start: Tensor, length: Tensor, full: int, size: int) -> tuple[Tensor, Tensor]:
    """[B, size, full] from output centres to source pixels, and [B, 1, full] which pixels are in the box."""
    pixel = torch.arange(full, device=start.device)[None]
    at = (torch.arange(size, device=start.device) + 0.5) * (length[:, None] / size) - 0.5 + start[:, None]
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
    return (at[:, :, None] - pixel).abs(), inside[:, None]


def _bicubic_matrix(start: Tensor, length: Tensor, full: int, size: int) -> Tensor:
    """[B, size, full]: weights of the source for each output; those outside the box are dropped."""
    distance, inside = _distances(start, length, full, size)
    a = -0.5
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weight = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0)) * inside
    return weight / weight.sum(-1, keepdim=True)


def _antialiased_matrix(start: Tensor, length: Tensor, full: int, size: int) -> Tensor:
    """[B, size, full]: a triangle as wide as an output pixel, at least one source pixel (PIL's ``Resample.c``)."""
    distance, inside = _distances(start, length, full, size)
    support = (length / size).clamp_min(1)[:, None, None]
    weight = (1 - distance / support).clamp_min(0) * inside
    return weight / weight.sum(-1, keepdim=True)


def flip(image: Tensor, chosen: Tensor) -> Tensor:
    """Mirror left-right where ``chosen`` (bool [B])."""
    return torch.where(chosen[:, None, None, None], image.flip(-1), image)


# ---------------------------------------------------------------- BYOL's set (official ``augmentations.py``)


def _per_sample(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]


def brightness(image: Tensor, delta: Tensor) -> Tensor:
    """image + delta, delta [B]."""
    return (image + _per_sample(delta)).clamp(0, 1)


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Scale about each channel's spatial mean, factor [B]."""
    mean = image.mean((2, 3), keepdim=True)
    return (_per_sample(factor) * (image - mean) + mean).clamp(0, 1)


def saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Scale S in HSV, clipped to [0, 1]; factor [B]."""
    hue_, saturation_, value = rgb_to_hsv(image)
    return hsv_to_rgb(hue_, (saturation_ * factor[:, None, None]).clamp(0, 1), value).clamp(0, 1)


def hue(image: Tensor, delta: Tensor) -> Tensor:
    """Add to H in HSV, modulo 1; delta [B] in turns."""
    hue_, saturation_, value = rgb_to_hsv(image)
    return hsv_to_rgb((hue_ + delta[:, None, None]) % 1.0, saturation_, value).clamp(0, 1)


def grayscale(image: Tensor) -> Tensor:
    """Luma .2989, .5870, .1140 (ITU-R 601, the four digits of TF and torchvision) on all three channels."""
    luma = image.new_tensor((0.2989, 0.5870, 0.1140))
    return torch.einsum("bchw,c->bhw", image, luma)[:, None].expand_as(image)


def blur(image: Tensor, sigma: Tensor, taps: int, *, padding: str = "zeros") -> Tensor:
    """Separable Gaussian blur, sigma [B] in pixels, ``taps`` odd; BYOL pads with zeros ('SAME'), PIL with the edge."""
    b, c, h, w = image.shape
    x = torch.arange(taps, device=image.device, dtype=image.dtype) - taps // 2
    kernel = torch.exp(-(x**2) / (2 * sigma.to(image.dtype)[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)  # [B * C, taps]
    if padding == "edge":
        image = F.pad(image, (taps // 2,) * 4, mode="replicate")
    pad = taps // 2 if padding == "zeros" else 0
    flat = image.reshape(1, b * c, *image.shape[2:])  # a group per sample and channel
    flat = F.conv2d(flat, kernel[:, None, :, None], padding=(pad, 0), groups=b * c)
    flat = F.conv2d(flat, kernel[:, None, None, :], padding=(0, pad), groups=b * c)
    return flat.reshape(b, c, h, w)


def solarize(image: Tensor, threshold: float = 0.5) -> Tensor:
    """1 - x where x >= threshold ([B] app. B)."""
    return torch.where(image < threshold, image, 1 - image)


def rgb_to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, 3, H, W] -> hue, saturation, value, each [B, H, W] in [0, 1]."""
    r, g, b = image.unbind(1)
    value, low = image.amax(1), image.amin(1)
    spread = value - low
    saturation_ = torch.where(value > 0, spread / value.clamp_min(1e-38), 0.0)
    scale = torch.where(spread > 0, 1 / (6 * spread.clamp_min(1e-38)), 0.0)
    hue_ = torch.where(
        r == value,
        scale * (g - b),
        torch.where(g == value, scale * (b - r) + 2 / 6, scale * (r - g) + 4 / 6),
    )
    hue_ = hue_ * (spread > 0)
    return hue_ + (hue_ < 0), saturation_, value


def hsv_to_rgb(hue_: Tensor, saturation_: Tensor, value: Tensor) -> Tensor:
    """Inverse of ``rgb_to_hsv``: [B, H, W] three times -> [B, 3, H, W]."""
    # each channel is value - chroma * a clipped triangle of the hue (Smith 1978), without a table of six cases
    shift = torch.tensor((5.0, 3.0, 1.0), device=value.device, dtype=value.dtype)[:, None, None]
    k = (shift + hue_[:, None] * 6) % 6
    triangle = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[:, None] - (value * saturation_)[:, None] * triangle


# ---------------------------------------------------------------- torchvision's set (``transforms.v2.functional``)


def _blend(image: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (other + _per_sample(factor) * (image - other)).clamp(0, 1)


def tv_brightness(image: Tensor, factor: Tensor) -> Tensor:
    """image * factor, factor [B] >= 0."""
    return (image * _per_sample(factor)).clamp(0, 1)


def tv_contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grayscale image."""
    return _blend(image, grayscale(image).mean((1, 2, 3), keepdim=True), factor)


def tv_saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grayscale image."""
    return _blend(image, grayscale(image), factor)
