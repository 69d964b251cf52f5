"""Colours of decoded pixels: 16-bit gray to 8 bits, and embedded colour profiles to sRGB by LittleCMS (in Pillow)."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageCms

from zoo.transforms.limits import WHITE_16

_MAX_PROFILE_BYTES = 4 << 20  # profiles of printers have one or two megabytes
_TWELVE_BITS = 4095
_SPACES = {"RGB": ("RGB", "RGBA", "P", "PA", "L", "LA", "1"), "GRAY": ("L", "LA", "1"), "CMYK": ("CMYK",)}

DARK = f"dark-16-bit: no value above {_TWELVE_BITS} of 65535, so it is nearly black"


@lru_cache(maxsize=8)
def _gray16_table(white: int) -> list[int]:
    """Return 255 / white of each value, rounded; for 65535 that is 1/257."""
    return [(min(value, white) * 255 + white // 2) // white for value in range(65536)]


def gray16_to_8(gray: Image.Image, white: int) -> Image.Image:
    """Scale an image of mode I with values in 0..65535 to mode L; ``white`` and above become 255."""
    return gray.point(_gray16_table(white), "L")


def is_dark_16(high: int, white: int) -> bool:
    """Return whether the largest value of 16-bit gray says that the file has 12 bits or fewer."""
    return white == WHITE_16 and 0 < high <= _TWELVE_BITS


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert an image to sRGB by its profile, perceptually.

    Args:
        image: of mode RGB, RGBA, P, PA, L, LA, 1 or CMYK.
        profile: the ICC profile in the file.

    Returns:
        Mode RGB, without alpha; ``None`` where the profile cannot be read or is one of other pixels.
    """
    if not 128 <= len(profile) <= _MAX_PROFILE_BYTES:
        return None
    try:
        space, transforms = _opened(profile)
        if image.mode not in _SPACES.get(space, ()):
            return None
        source = image if space == "CMYK" else image.convert("L" if space == "GRAY" else "RGB")
        if source.mode not in transforms:
            transforms[source.mode] = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), source.mode, "RGB"
            )
        return ImageCms.applyTransform(source, transforms[source.mode])
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # LittleCMS refuses the profile
        return None


@lru_cache(maxsize=32)
def _opened(profile: bytes) -> tuple[str, dict[str, ImageCms.ImageCmsTransform]]:
    """Return the colour space of a profile, and the transforms made of it by mode: making one takes milliseconds."""
    return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip(), {}
