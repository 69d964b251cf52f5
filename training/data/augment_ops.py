"""Image operations on batches, with one parameter per sample: float [B, 3, H, W] in [0, 1] -> the same, clipped.

There are two sets, because the papers' codes differ: BYOL's and SimCLR's (as in TF: additive brightness, contrast about
each channel's mean, hue and saturation in HSV) and torchvision's, which the other methods use. Both work in floating
point here, without rounding to 8 bits between operations.

On a CPU, a sample's bits do not depend on the rest of its batch: all operations are element-wise sums and products in a
fixed order. Resampling and blur therefore add their taps one by one instead of multiplying matrices.
"""

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

_TF_STEPS = 1024  # kTableSize of TF's ``resize_bicubic_op.cc``: a tap's distance is rounded to this part of a pixel

# ---------------------------------------------------------------- crops


def crop_resize(
    image: Tensor, box: Tensor, size: int, kernel: str = "bicubic", mirrored: Tensor | None = None
) -> Tensor:
    """Crop one box per sample and resize it.

    Args:
        image: float [B, 3, H, W]; fastest if its memory is channels_last.
        box: int [B, 4]: top, left, height, width in pixels, inside the image.
        size: side of the output.
        kernel: ``bicubic`` is TF 2's ``resize`` (Keys a = -.5, half-pixel centres, taps outside the box dropped),
            ``bicubic_tf1`` TF 1's ``resize_bicubic`` (a = -.75, corners of pixels, taps outside take the edge), both
            without antialias; ``bilinear_antialias`` and ``bicubic_antialias`` are PIL's.
        mirrored: bool [B], samples to flip left-right; ``None`` flips none.

    Returns:
        [B, 3, size, size], clipped to [0, 1], because bicubic interpolation overshoots.
    """
    b, c, h, w = image.shape
    lines = image.permute(0, 2, 3, 1).reshape(b, h, w * c)
    lines = _resample(lines, box[:, 0], box[:, 2], size, kernel)  # [B, size, W * 3]
    lines = lines.view(b, size, w, c).permute(0, 2, 3, 1).reshape(b, w, c * size)
    lines = _resample(lines, box[:, 1], box[:, 3], size, kernel, mirrored)  # [B, size, 3 * size]: columns first
    return lines.view(b, size, c, size).permute(0, 2, 3, 1).clamp(0, 1).contiguous()


def _resample(
    lines: Tensor, start: Tensor, length: Tensor, size: int, kernel: str, mirrored: Tensor | None = None
) -> Tensor:
    """[B, N, M] -> [B, size, M]: resize the lines ``start .. start + length`` of each sample to ``size`` lines."""
    b, full, m = lines.shape
    # ``reach``: lines on either side with non-zero weight
    cubic, antialias = kernel != "bilinear_antialias", kernel.endswith("_antialias")
    reach = ceil((1 + cubic) * (max(1.0, full / size) if antialias else 1.0))
    # Find where each output line lies between the input lines.
    index = torch.arange(size, device=lines.device)
    if kernel == "bicubic_tf1":
        centre = index * (length / size)[:, None]
        centre = centre.floor() + ((centre - centre.floor()) * _TF_STEPS).round() / _TF_STEPS
    else:
        centre = (index + 0.5) * (length / size)[:, None] - 0.5
    if mirrored is not None:
        centre = torch.where(mirrored[:, None], centre.flip(1), centre)
    # List the input lines that each output line reads, with their distances.
    position = centre.floor()[:, None] + torch.arange(1 - reach, 1 + reach, device=lines.device)[:, None]
    distance = (position - centre[:, None]).abs()  # [B, taps, size]
    # Weigh these lines by the kernel, which an antialias makes as wide as an output line, but no narrower.
    if antialias:
        distance = distance / (length / size).clamp_min(1)[:, None, None]
    a = -0.75 if kernel == "bicubic_tf1" else -0.5
    weight = _cubic(distance, a) if cubic else (1 - distance).clamp_min(0)
    if kernel != "bicubic_tf1":
        weight = weight * ((position >= 0) & (position < length[:, None, None]))  # lines outside the box are dropped
    # Scale the weights of each output line to a sum of one.
    total = weight[:, 0].clone()
    for tap in range(1, 2 * reach):
        total += weight[:, tap]
    weight = (weight / total[:, None]).to(lines.dtype)
    # Keep the indices inside the box where the kernel reaches past its edge.
    line = torch.minimum(position.clamp_min(0).long(), length[:, None, None] - 1) + start[:, None, None]
    line += torch.arange(b, device=lines.device)[:, None, None] * full
    # Add the weighted lines, one tap at a time, to save memory.
    flat, out = lines.reshape(b * full, m), lines.new_zeros(b, size, m)
    for tap in range(2 * reach):
        out.addcmul_(flat.index_select(0, line[:, tap].reshape(-1)).view(b, size, m), weight[:, tap, :, None])
    return out


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic; a is -.5 in TF 2's ``resize`` and in PIL, and -.75 in TF 1's ``resize_bicubic``."""
    inner = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    outer = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, inner, torch.where(distance < 2, outer, 0.0))


# ---------------------------------------------------------------- BYOL's set (official ``augmentations.py``)


def _per_sample(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]


def brightness(image: Tensor, delta: Tensor) -> Tensor:
    """Return image + delta; delta [B]."""
    return (image + _per_sample(delta)).clamp_(0, 1)


def contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Scale about each channel's spatial mean; factor [B]."""
    mean = image.mean((2, 3), keepdim=True)
    return torch.lerp(mean, image, _per_sample(factor.to(image.dtype))).clamp_(0, 1)


def saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Scale S in HSV, clipped to [0, 1]; factor [B]."""
    # H and V are constant, so each channel's distance from V is proportional to S, and no hue is needed.
    value, chroma = _value_and_chroma(image)
    scale = torch.minimum(_per_sample(factor), value / chroma.clamp_min_(1e-38))  # S stays at or below 1
    return torch.addcmul(value, image - value, scale).clamp_(0, 1)


def hue(image: Tensor, delta: Tensor) -> Tensor:
    """Add delta [B] to H in HSV, modulo 1 (a full turn)."""
    # Convert the image to hue, chroma and value.
    r, g, b = _channels(image)
    value, chroma = _value_and_chroma(image)
    if_blue = (r - g).sub_(chroma, alpha=2)
    if_green = (b - r).add_(chroma, alpha=2)
    # lerp with a weight of 0. or 1. selects by the largest channel; torch.where is some forty times slower on a CPU
    sixths = torch.lerp(torch.lerp(if_blue, if_green, g.clone().eq_(value)), g - b, r.clone().eq_(value))
    sixths.div_(chroma.clamp_min(1e-38)).add_(_per_sample(delta * 6))
    sixths.sub_((sixths / 6).round_(), alpha=6)  # hue in [-3, 3], 0 is red
    # each channel is the lowest one + chroma * a clipped triangle of the hue (Smith 1978)
    out = torch.cat([2 - sixths.abs(), (sixths + 1).abs_().sub_(1), (sixths - 1).abs_().sub_(1)], 1)
    return torch.addcmul(value - chroma, chroma, out.clamp_(0, 1)).clamp_(0, 1)


def grayscale(image: Tensor) -> Tensor:
    """Put the luma on all channels; weights .2989, .5870, .1140 are ITU-R 601's, with TF's and torchvision's digits."""
    return _luma(image).expand_as(image).contiguous()


def blur(image: Tensor, sigma: Tensor, taps: int, *, padding: str = "zeros") -> Tensor:
    """Separable Gaussian blur; sigma [B] in pixels, ``taps`` odd.

    BYOL pads with ``zeros`` ('SAME'), PIL with the ``edge``, InfoMin's code with what the border would ``reflect``.
    """
    # Make one Gaussian kernel for each sample.
    x = torch.arange(taps, device=image.device, dtype=image.dtype) - taps // 2
    kernel = torch.exp(-(x**2) / (2 * sigma.to(image.dtype)[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    # Blur along the height, then along the width.
    mode = {"zeros": "constant", "edge": "replicate", "reflect": "reflect"}[padding]
    for dim in (2, 3):
        half = taps // 2
        padded = F.pad(image, (0, 0, half, half) if dim == 2 else (half, half, 0, 0), mode=mode)
        image = torch.zeros_like(image)
        for tap in range(taps):
            image.addcmul_(padded.narrow(dim, tap, image.shape[dim]), _per_sample(kernel[:, tap]))
    return image


def solarize(image: Tensor) -> Tensor:
    """Replace x >= .5 by 1 - x ([B] app. B): the smaller of the two."""
    return torch.minimum(image, 1 - image)


def _channels(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return image[:, :1], image[:, 1:2], image[:, 2:]


def _value_and_chroma(image: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 3, H, W] -> V of HSV and the chroma, largest minus smallest channel, each [B, 1, H, W]."""
    r, g, b = _channels(image)
    value = torch.maximum(torch.maximum(r, g), b)
    return value, value - torch.minimum(torch.minimum(r, g), b)


def _luma(image: Tensor) -> Tensor:
    r, g, b = _channels(image)
    luma: Tensor = r * 0.2989
    return luma.add_(g, alpha=0.5870).add_(b, alpha=0.1140)


# ---------------------------------------------------------------- torchvision's set (``transforms.v2.functional``)


def tv_brightness(image: Tensor, factor: Tensor) -> Tensor:
    """Return image * factor; factor [B] >= 0."""
    return (image * _per_sample(factor)).clamp_(0, 1)


def tv_contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grayscale image; factor [B] >= 0, 1 changes nothing."""
    mean = _luma(image).mean((2, 3), keepdim=True)
    return torch.lerp(mean, image, _per_sample(factor.to(image.dtype))).clamp_(0, 1)


def tv_saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grayscale image; factor [B] >= 0, 1 changes nothing."""
    return torch.lerp(_luma(image), image, _per_sample(factor.to(image.dtype))).clamp_(0, 1)
