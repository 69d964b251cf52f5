"""Small JPEGs of images, to look at."""

from __future__ import annotations

import base64
import io

from PIL import Image

from zoo.transforms.decode import decoded
from zoo.transforms.limits import MAX_PIXELS


def thumbnail(data: bytes, side: int) -> bytes:
    """Turn an encoded image into a JPEG of at most ``side`` pixels a side, without metadata.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    with decoded(data, MAX_PIXELS) as image:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as a data URI, for ``<img src>`` in a page without other files."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
