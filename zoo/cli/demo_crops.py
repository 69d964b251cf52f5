"""The collection that ``zoo demo`` searches: crops of the example photographs, so that it is known what is alike.

Of 24 photographs of different things none is much like another one, and a page of their neighbours shows little.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from zoo.inference.images import as_rgb
from zoo.system.atomic_files import create_folder_exclusively

CROPS = 8
"""Crops of each photograph: ``PHOTO-0.jpg`` to ``PHOTO-7.jpg``."""
_AREA, _LIGHT = (0.35, 0.8), (0.75, 1.25)  # shares of the photograph's square; factors of its brightness
_SIDE = 224  # pixels


def write_crops(photographs: list[Path], out: Path, seed: int = 0) -> None:
    """Make the folder ``out`` with square crops of photographs, half of them mirrored, brighter or darker.

    The same photographs and seed give the same pixels. A folder that is there already is left as it is.

    Raises:
        UserError: the folder cannot be written.
    """
    if not out.exists():
        create_folder_exclusively(out, partial(_fill, photographs, seed))


def _fill(photographs: list[Path], seed: int, folder: Path) -> None:
    draws = np.random.default_rng(seed)
    for path in photographs:
        photo = as_rgb(path)
        for n in range(CROPS):
            _crop(photo, draws).save(folder / f"{path.stem}-{n}.jpg", quality=90)


def _crop(photo: Image.Image, draws: np.random.Generator) -> Image.Image:
    side = round(min(photo.size) * draws.uniform(*_AREA) ** 0.5)
    left, top = (int(draws.integers(0, length - side + 1)) for length in photo.size)
    found = photo.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    found = ImageOps.mirror(found) if draws.random() < 0.5 else found
    return ImageEnhance.Brightness(found).enhance(draws.uniform(*_LIGHT))
