"""Two encoders that share an image's colours: CMC's, one for the lightness and one for the two colour channels.

The constants of the colour spaces are scikit-image's (``skimage/color/colorconv.py``), those of the normalisation CMC's
(HobbitLong/CMC at 7b227be, ``train_CMC.py``, ``LinearProbing.py:114-163``) and PyContrast's (``datasets/util.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zoo.transforms.preprocess import IMAGENET_MEAN, IMAGENET_STD

_LAB = (50.0, (-86.183 + 98.233) / 2, (-107.857 + 94.478) / 2), (50.0, (86.183 + 98.233) / 2, (107.857 + 94.478) / 2)
_YCBCR = (116.151, 121.080, 132.342), (109.5, 111.855, 111.964)
_YDBDR = (0.457, -0.082, -0.052), (0.500, 1.331, 1.333)
_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees
_XYZ = (0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227)


class SplitEncoder(nn.Module):
    """Normalised RGB [N, 3, H, W] -> features of the first channel and of the other two, concatenated, [N, 2 D].

    Args:
        first: of the first channel of the colour space: [N, 1, H, W] -> [N, D].
        second: of the two others: [N, 2, H, W] -> [N, D].
        colours: ``lab``, ``ycbcr`` or ``ydbdr``.
    """

    def __init__(self, first: nn.Module, second: nn.Module, colours: str) -> None:
        super().__init__()
        self.first, self.second, self.colours = first, second, colours
        self.num_features = sum(int(getattr(encoder, "num_features", 0)) for encoder in self.halves)

    @property
    def halves(self) -> tuple[nn.Module, nn.Module]:
        """The two encoders. A stage of this network concatenates the stages of both."""
        return self.first, self.second

    def forward(self, x: Tensor) -> Tensor:
        x = convert_colours(x, self.colours)
        return torch.cat([self.first(x[:, :1]), self.second(x[:, 1:])], 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised RGB [N, 3, H, W] -> maps [N, 2 D, h, w], as timm's networks; transformers calls it."""
        x = convert_colours(x, self.colours)
        first: Callable[[Tensor], Tensor] = self.first.forward_features  # type: ignore[assignment]
        second: Callable[[Tensor], Tensor] = self.second.forward_features  # type: ignore[assignment]
        return torch.cat([first(x[:, :1]), second(x[:, 1:])], 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps [N, 2 D, h, w] -> their means [N, 2 D], as timm's networks without classes."""
        return x.mean((2, 3))

    def set_grad_checkpointing(self) -> None:
        """Recompute activations in the backward pass, as timm's networks do."""
        for encoder in self.halves:
            checkpointing: Callable[[], None] = encoder.set_grad_checkpointing  # type: ignore[assignment]
            checkpointing()


def convert_colours(x: Tensor, colours: str) -> Tensor:
    """RGB [N, 3, H, W] with ImageNet's mean and deviation -> another colour space, with its own.

    In float32 or wider, also under autocast: it is arithmetic by channel, without a product of matrices.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    norms = zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)
    rgb = [x[:, n] * std + mean for n, (mean, std) in enumerate(norms)]
    convert, (means, deviations) = _SPACES[colours]
    return torch.stack([(c - m) / s for c, m, s in zip(convert(rgb), means, deviations, strict=True)], 1)


def rgb_to_lab(rgb: Sequence[Tensor]) -> list[Tensor]:
    """Channels of sRGB in [0, 1] -> L in 0..100, a and b (skimage's ``rgb2lab``)."""
    linear = [torch.where(c > 0.04045, ((c.clamp(min=0) + 0.055) / 1.055) ** 2.4, c / 12.92) for c in rgb]
    xyz = [c / white for c, white in zip(_mix(linear, _XYZ), _WHITE, strict=True)]
    x, y, z = (torch.where(c > 0.008856, c.clamp(min=1e-9) ** (1 / 3), 7.787 * c + 16 / 116) for c in xyz)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def rgb_to_ycbcr(rgb: Sequence[Tensor]) -> list[Tensor]:
    """Channels of RGB in [0, 1] -> Y in 16..235, Cb and Cr in 16..240 (skimage's ``rgb2ycbcr``)."""
    y, cb, cr = _mix(rgb, ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214)))
    return [y + 16, cb + 128, cr + 128]


def rgb_to_ydbdr(rgb: Sequence[Tensor]) -> list[Tensor]:
    """Channels of RGB in [0, 1] -> Y in 0..1, Db and Dr within 1.333 of 0 (skimage's ``rgb2ydbdr``)."""
    return _mix(rgb, ((0.299, 0.587, 0.114), (-0.45, -0.883, 1.333), (-1.333, 1.116, 0.217)))


def _mix(channels: Sequence[Tensor], matrix: Sequence[Sequence[float]]) -> list[Tensor]:
    r, g, b = channels
    return [row[0] * r + row[1] * g + row[2] * b for row in matrix]


_SPACES: dict[str, tuple[Callable[[Sequence[Tensor]], list[Tensor]], tuple[Sequence[float], Sequence[float]]]] = {
    "lab": (rgb_to_lab, _LAB),
    "ycbcr": (rgb_to_ycbcr, _YCBCR),
    "ydbdr": (rgb_to_ydbdr, _YDBDR),
}
