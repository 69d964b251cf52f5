"""The jigsaw branch of PIRL and InfoMin: nine patches of another crop of the image, and the head that joins them.

VIS is facebookresearch/vissl at 09270ed, PYC is HobbitLong/PyContrast at 84f94ea.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from zoo.numerics.counter_rng import uniforms

GRID = 3
PATCHES = GRID * GRID
_STREAM = 3 << 32  # random stream of offsets and permutations; the memory bank's are from 2 << 32
_CELL, _PATCH = 85, 64  # pixels of a cell and of its patch in a crop of 255, in both codes


def patch_size(crop: int) -> int:
    """Return the side of a patch for a crop's side: 64 for 255."""
    return crop // GRID * _PATCH // _CELL


def draw_puzzle(rows: Tensor, places: int, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Draw where each patch lies in its cell, and the order of the patches; a function of seed, step and row.

    Args:
        rows: the images' rows int64 [N].
        places: number of places on each axis.

    Returns:
        offsets int64 [N, 9, 2], down and to the right, and permutations int64 [N, 9], of all 9! ones.
    """
    u = uniforms(seed, _STREAM, step, rows.cpu().numpy(), 3 * PATCHES)
    offsets = torch.from_numpy((u[:, : 2 * PATCHES] * places).astype(np.int64)).view(-1, PATCHES, 2)
    order = torch.from_numpy(np.argsort(u[:, 2 * PATCHES :], axis=1))
    return offsets.to(rows.device), order.to(rows.device)


def cut_patches(crops: Tensor, offsets: Tensor) -> Tensor:
    """Crops [N, 3, S, S] -> patches [N, 9, 3, P, P]: one of each cell of the grid, row by row, at its offset."""
    cell, size = crops.shape[-1] // GRID, patch_size(crops.shape[-1])
    number = torch.arange(PATCHES, device=crops.device)
    steps = torch.arange(size, device=crops.device)
    top = number // GRID * cell + offsets[:, :, 0]  # Nx9
    left = number % GRID * cell + offsets[:, :, 1]
    image = torch.arange(len(crops), device=crops.device)[:, None, None, None]
    cut = crops[image, :, (top[:, :, None] + steps)[..., :, None], (left[:, :, None] + steps)[..., None, :]]
    return cut.movedim(-1, 2)  # channels come last where two indices surround a slice


class JigsawHead(nn.Module):
    """Features of nine patches -> one vector: a layer on each, in a permuted order one after the other, and a Linear.

    Args:
        dim: size of a patch's feature.
        out: size of the vector, and of what each patch contributes; 128.
        layers: on each patch: 1 is a Linear, 2 a Linear, ReLU, Linear.
        last_relu: another ReLU before the patches are joined, as VIS has it with two layers.
    """

    def __init__(self, dim: int, out: int, *, layers: int = 1, last_relu: bool = False) -> None:
        super().__init__()
        hidden = [m for _ in range(layers - 1) for m in (nn.Linear(dim, dim), nn.ReLU(inplace=True))]
        last = [nn.ReLU(inplace=True)] if last_relu else []
        self.fc1 = nn.Sequential(*hidden, nn.Linear(dim, out), *last)
        self.fc2 = nn.Linear(PATCHES * out, out)

    def forward(self, features: Tensor, order: Tensor) -> Tensor:
        """[9 N, dim], image after image, and permutations [N, 9] -> [N, out]; place j takes patch order[:, j]."""
        x = self.fc1(features).view(len(order), PATCHES, -1)
        image = torch.arange(len(order), device=order.device)[:, None]
        joined: Tensor = self.fc2(x[image, order].flatten(1))
        return joined
