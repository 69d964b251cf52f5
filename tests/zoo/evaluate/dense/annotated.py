"""Real photographs in small, and annotations that can be seen in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = sorted((Path(__file__).parents[4] / "examples" / "photos").glob("*.jpg"))


def photo(n: int, width: int = 64, height: int = 48) -> Image.Image:
    """A real photograph in small."""
    return Image.open(PHOTOS[n]).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)


def brightness(image: Image.Image) -> np.ndarray:
    """Smoothed gray values in 0..255: an annotation that can be seen in the picture."""
    small = image.convert("L").resize((4, 3), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))
