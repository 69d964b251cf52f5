"""Small images made with Pillow, for tests that need no photograph."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth colourful RGB image, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def fill(root: Path, n: int = 20) -> Path:
    """``n`` JPEG, PNG and WebP files in three folders below ``root``."""
    for i in range(n):
        format = ("JPEG", "PNG", "WEBP")[i % 3]
        path = root / ("", "a", "a/b")[i // 2 % 3] / f"{i:02d}.{format.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(seed=i), format))
    return root
