"""Images of any sizes in one tensor, so that a batch is one copy to the device and one gather there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """B images, their pixels one after the other, row by row.

    Attributes:
        pixels: uint8 [P, 3] with P the sum of all heights x widths, on any device.
        heights, widths: int64 [B], on the host.
    """

    pixels: Tensor
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.heights)

    @property
    def starts(self) -> NDArray[np.int64]:
        """int64 [B]: where each image begins in ``pixels``."""
        areas = self.heights * self.widths
        starts: NDArray[np.int64] = np.cumsum(areas) - areas
        return starts

    def part(self, images: slice) -> Packed:
        """Of consecutive images; shares their pixels."""
        ends = np.cumsum(self.heights * self.widths)
        first, stop, _ = images.indices(len(self))
        start, end = (0 if n == 0 else int(ends[n - 1]) for n in (first, max(first, stop)))
        return Packed(self.pixels[start:end], self.heights[images], self.widths[images])

    def to(self, device: torch.device) -> Packed:
        """The same on ``device``; from pinned memory without waiting."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))

    def pinned(self) -> Packed:
        """In page-locked memory, from which a copy to a GPU does not hold up the host."""
        return replace(self, pixels=self.pixels.pin_memory())

    def unpacked(self) -> Iterator[Tensor]:
        """Each image, uint8 [H_i, W_i, 3]; views of ``pixels``."""
        for start, height, width in zip(self.starts, self.heights, self.widths, strict=True):
            yield self.pixels[start : start + height * width].view(int(height), int(width), 3)


def pack(images: Sequence[NDArray[np.uint8]]) -> Packed:
    """Arrays uint8 [H_i, W_i, 3]."""
    heights, widths = (np.array([i.shape[d] for i in images], np.int64) for d in (0, 1))
    return Packed(torch.from_numpy(np.concatenate([i.reshape(-1, 3) for i in images])), heights, widths)
