"""Images of any sizes in one tensor, so that a batch needs one copy to the device and one gather there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class PackedImages:
    """B images whose pixels lie one after the other, row by row.

    Attributes:
        pixels: uint8 [P, 3], where P is the sum of all heights x widths; on any device.
        heights, widths: int64 [B], on the host.
    """

    pixels: Tensor
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.heights)

    @property
    def starts(self) -> NDArray[np.int64]:
        """int64 [B]: index of each image's first pixel in ``pixels``."""
        areas = self.heights * self.widths
        starts: NDArray[np.int64] = np.cumsum(areas) - areas
        return starts

    def part(self, images: slice) -> PackedImages:
        """Return consecutive images; their pixels are shared."""
        ends = np.cumsum(self.heights * self.widths)
        first, stop, _ = images.indices(len(self))
        start, end = (0 if n == 0 else int(ends[n - 1]) for n in (first, max(first, stop)))
        return PackedImages(self.pixels[start:end], self.heights[images], self.widths[images])

    def to(self, device: torch.device) -> PackedImages:
        """Return a copy on ``device``; the host does not wait for the copy from pinned memory."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))

    def pinned(self) -> PackedImages:
        """Return a copy in page-locked memory, for an asynchronous copy to a GPU."""
        return replace(self, pixels=self.pixels.pin_memory())


def pack(images: Sequence[NDArray[np.uint8]]) -> PackedImages:
    """Pack arrays uint8 [H_i, W_i, 3]."""
    heights, widths = (np.array([i.shape[d] for i in images], np.int64) for d in (0, 1))
    return PackedImages(torch.from_numpy(np.concatenate([i.reshape(-1, 3) for i in images])), heights, widths)
