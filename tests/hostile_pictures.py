"""One table of pictures that readers decode differently: orientation, colour profiles, CMYK, alpha, 16 bits."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


def photo() -> Image.Image:
    with Image.open(PHOTOS / "flower_dahlia.jpg") as image:
        return image.convert("RGB").resize((120, 90))


def bright_profile() -> bytes:
    """An RGB profile far from sRGB: a reader that applies it moves every pixel."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (profile.index(tag, 128) for tag in (b"rXYZ", b"bXYZ"))
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"  # red and blue change places
    return bytes(profile)


def cmyk_profile() -> bytes:
    """A profile that says it is of CMYK; it is not read where profiles are ignored."""
    profile = bytearray(bright_profile())
    profile[16:20] = b"CMYK"
    return bytes(profile)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    stride = len(rows) // height
    raw = b"".join(b"\0" + rows[at : at + stride] for at in range(0, len(rows), stride))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def pictures() -> dict[str, bytes]:
    """Return files by name; those of one orientation differ from each other, so that a wrong one shows."""
    found: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, format: str, **options: object) -> None:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        found[name] = buffer.getvalue()

    image = photo()
    lossless = {"lossless": True, "exact": True}
    jpeg = {"quality": 100, "subsampling": 0}
    # Orientation, in the three containers.
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        add(f"orientation{orientation}.jpg", image, "JPEG", exif=exif, **jpeg)
        add(f"orientation{orientation}.png", image, "PNG", exif=exif)
        add(f"orientation{orientation}.webp", image, "WEBP", exif=exif, **lossless)
    # Alpha, and transparent colours.
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.radial_gradient("L").resize(image.size))
    add("alpha.png", rgba, "PNG")
    add("alpha.webp", rgba, "WEBP", **lossless)
    add("alpha gray.png", rgba.convert("LA"), "PNG")
    palette = image.quantize(32, dither=Image.Dither.NONE)
    add("palette.png", palette, "PNG")
    add("palette alpha.png", palette, "PNG", transparency=bytes(range(0, 256, 8)))
    add("palette colour.png", palette, "PNG", transparency=5)
    flat = np.asarray(palette.convert("RGB"))
    add("colour.png", Image.fromarray(flat), "PNG", transparency=tuple(int(v) for v in flat[45, 60]))
    # Colour profiles, and what PNG says of colours besides.
    profile = bright_profile()
    add("profile.jpg", image, "JPEG", icc_profile=profile, **jpeg)
    add("profile.png", image, "PNG", icc_profile=profile)
    add("profile.webp", image, "WEBP", icc_profile=profile, **lossless)
    add("profile alpha.png", rgba, "PNG", icc_profile=profile)
    add("bad profile.png", image, "PNG", icc_profile=b"no profile" * 30)
    rgb = image.tobytes()
    add("plain.png", image, "PNG")
    found["gamma.png"] = png_of(120, 90, 8, 2, rgb, chunk(b"gAMA", struct.pack(">I", 100_000)))
    wide = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    found["chromaticities.png"] = png_of(120, 90, 8, 2, rgb, chunk(b"gAMA", struct.pack(">I", 45_455)), wide)
    found["cicp.png"] = png_of(120, 90, 8, 2, rgb, chunk(b"cICP", bytes([12, 13, 0, 1])))
    # CMYK and gray.
    cmyk = image.convert("CMYK")
    add("cmyk.jpg", cmyk, "JPEG", **jpeg)
    black = Image.merge("CMYK", [*cmyk.split()[:3], image.convert("L").point(lambda v: (255 - v) // 2)])
    add("cmyk black.jpg", black, "JPEG", **jpeg)
    for name in ("cmyk profile.jpg", "cmyk turned.jpg"):
        exif = Image.Exif()
        exif[0x0112] = 6 if "turned" in name else 1
        add(name, black, "JPEG", icc_profile=cmyk_profile(), exif=exif, **jpeg)
    adobe = bytes([0xFF, 0xEE]) + struct.pack(">H", 14) + b"Adobe\0\x64\0\0\0\0"
    found["cmyk inverted.jpg"] = found["cmyk black.jpg"][:2] + adobe + b"\0" + found["cmyk black.jpg"][2:]
    add("gray.jpg", image.convert("L"), "JPEG", quality=100)
    add("gray.png", image.convert("L"), "PNG")
    add("one bit.png", image.convert("1"), "PNG")
    # Sixteen bits.
    deep = np.asarray(image.convert("L"), np.uint16) * 257 + np.arange(120, dtype=np.uint16)[None] % 97
    deep = np.minimum(deep, 65535).astype(np.uint16)
    add("sixteen gray.png", Image.fromarray(deep), "PNG")
    deep_rgb = (np.asarray(image, np.uint16) * 257).astype(">u2").tobytes()
    found["sixteen colour.png"] = png_of(120, 90, 16, 2, deep_rgb)
    deep_alpha = (np.asarray(rgba, np.uint16) * 257).astype(">u2").tobytes()
    found["sixteen alpha.png"] = png_of(120, 90, 16, 6, deep_alpha)
    deep_la = (np.asarray(rgba.convert("LA"), np.uint16) * 257).astype(">u2").tobytes()
    found["sixteen gray alpha.png"] = png_of(120, 90, 16, 4, deep_la)
    # Animations, and pixels in another order.
    frames = [image, image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    add("animation.png", frames[0], "PNG", save_all=True, append_images=frames[1:])
    add("animation.webp", frames[0], "WEBP", save_all=True, append_images=frames[1:], **lossless)
    add("progressive.jpg", image, "JPEG", progressive=True, **jpeg)
    return found
