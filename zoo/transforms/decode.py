"""Decode image files to RGB pixels. zoo decodes images in this module and nowhere else.

Every manifest records these rules (``DECODER``):

- JPEG (also MPO, which phones write), PNG, GIF, WebP, BMP and TIFF, recognised by content, not by file name.
- The EXIF orientation is applied. An image with a broken EXIF block is still decoded.
- Transparent pixels are composited over white. The first frame of an animation is used.
- 16-bit gray is scaled by 1/257. 32-bit integers are read as 16-bit gray if all values lie in 0..65535, and are
  ``unsupported`` otherwise. Floating-point pixels are ``unsupported``: the file does not say which value is white.
- Colour profiles are ignored.
- An image with more than ``max_pixels`` pixels is refused before it is decoded. A truncated file is never completed.

A file that cannot be decoded raises ``UnreadableImage`` with a reason from a closed set.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from typing import TYPE_CHECKING, BinaryIO, Literal

import PIL
from PIL import Image, features

from zoo.errors import reason_of
from zoo.system.shortage import raise_if_short
from zoo.transforms.limits import MAX_BYTES, MAX_PIXELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Reason = Literal[
    "missing",  # no such file (any more), or a broken link
    "no-permission",  # the file or its folder may not be read
    "not-a-file",  # a folder, FIFO, socket or device
    "io-error",  # the operating system failed to read it
    "changed",  # size or modification time differ from the plan's
    "empty",  # no bytes
    "too-large",  # more bytes or pixels than the limit
    "not-an-image",  # none of the supported formats
    "unsupported",  # a supported format, in a variant that has no RGB form
    "truncated",  # the end is missing
    "corrupt",  # a supported format that its decoder refuses
]

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
EXTENSIONS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"))
PILLOW_MAX_PIXELS = 2 * 89_478_485  # Pillow refuses more than this, whatever the caller allows
DECODER = {
    "library": "Pillow",
    "version": PIL.__version__,
    "libjpeg_turbo": features.version("libjpeg_turbo"),
    "formats": list(FORMATS),
    "exif_orientation": "applied",
    "alpha": "over white",
    "animation": "first frame",
    "gray16": "1/257",
    "colour_profile": "ignored",
    "max_bytes": MAX_BYTES,
}

_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE = (255, 255, 255)
_GRAY16 = [(value + 128) // 257 for value in range(65536)]
_ORIENTATION_TAG = 0x0112
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for it
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LARGE_PIXELS = 12_000_000
_large_image_lock = threading.Lock()

# A damaged file is reported by its reason alone. Without a log handler Python prints Pillow's errors about odd TIFF
# tags to stderr, and libtiff inside Pillow prints there too.
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(OSError, AttributeError):  # a Pillow built with libtiff inside has no such symbol
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)  # type: ignore[attr-defined]
# glibc returns blocks above 32 MiB to the system as soon as they are freed. Pillow's default blocks have 16 MiB: every
# thread that ever held a large image would keep a heap full of them.
Image.core.set_block_size(64 * 1024 * 1024)  # type: ignore[attr-defined]


class UnreadableImage(Exception):
    """A file that cannot be decoded to pixels.

    Attributes:
        reason: one of ``Reason``.
        detail: one line of text, the same for the same bytes: it holds no memory addresses and no absolute paths.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def read_bytes(path: bytes | str | os.PathLike[str], *, size: int | None = None, mtime_ns: int | None = None) -> bytes:
    """Return all bytes of a regular file of at most ``MAX_BYTES``; FIFOs and devices are refused unopened.

    Args:
        size, mtime_ns: expected size in bytes and modification time in nanoseconds; ``None`` accepts any file.

    Raises:
        UnreadableImage: the file cannot be read, or it is not the expected one.
    """
    with _opened(path) as (file, before):
        if (size, mtime_ns) != (None, None) and (before.st_size, before.st_mtime_ns) != (size, mtime_ns):
            raise UnreadableImage("changed", "another size or modification time than when the run began")
        if before.st_size > MAX_BYTES:
            raise UnreadableImage("too-large", f"{before.st_size} bytes, more than {MAX_BYTES}")
        data = file.read(before.st_size + 1)
        after = os.fstat(file.fileno())
    if (len(data), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UnreadableImage("changed", "written to while it was read")
    return data


def read_part(path: bytes | str | os.PathLike[str], offset: int, length: int, *, mtime_ns: int) -> bytes:
    """Return ``length`` bytes (at most ``MAX_BYTES``) of a regular file, beginning at byte ``offset``.

    Args:
        mtime_ns: expected modification time in nanoseconds.

    Raises:
        UnreadableImage: the bytes cannot be read, or the file has another modification time.
    """
    if length > MAX_BYTES:
        raise UnreadableImage("too-large", f"{length} bytes, more than {MAX_BYTES}")
    with _opened(path) as (file, before):
        file.seek(offset)
        data = file.read(length)
        if {before.st_mtime_ns, os.fstat(file.fileno()).st_mtime_ns} != {mtime_ns} or len(data) != length:
            raise UnreadableImage("changed", "another size or modification time than when the run began")
    return data


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a file's bytes to an upright, opaque PIL image of mode RGB.

    Raises:
        UnreadableImage: the bytes are not a supported image, or have more than ``max_pixels`` pixels.
    """
    return to_rgb(_open(data, max_pixels))


def decode_values(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8 | np.uint16]:
    """Decode an annotation: the stored numbers of a one-channel image, neither scaled, rotated nor converted.

    Returns:
        [H, W]: label ids or palette indices as uint8 (0 and 1 for 1-bit images), or depth as uint16.

    Raises:
        UnreadableImage: as ``decode``; ``unsupported`` for more than one channel or values outside of uint16.
    """
    import numpy as np

    # Decode the whole file here, so that damage shows at once.
    image = _open(data, max_pixels)
    try:
        image.load()
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise _decoder_error(error) from error
    # Return eight bits as they are.
    if image.mode in ("1", "L", "P"):
        return np.array(image, np.uint8)
    # Return wider values where they fit in sixteen bits.
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.array(image)
        if values.min() >= 0 and values.max() <= 65535:
            return values.astype(np.uint16)
    raise UnreadableImage("unsupported", f"pixels of mode {image.mode}, not one channel of 8 or 16 bits")


@contextmanager
def decoded(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Context manager form of ``decode`` that frees the pixels at the end of the ``with`` block.

    A process decodes one large image at a time: many threads then need no more memory than one image of
    ``max_pixels``, at most 8 bytes a pixel.
    """
    image = _open(data, max_pixels)
    with _large_image_lock if image.width * image.height > _LARGE_PIXELS else nullcontext():
        image = to_rgb(image)  # rebinding the name frees the original pixels
        try:
            yield image
        finally:
            image.close()


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a PIL image of any mode to an upright, opaque one of mode RGB, by the rules of this module.

    Raises:
        UnreadableImage: the image cannot be decoded, or its mode has no RGB form.
    """
    try:
        image.load()
        upright = _upright(image)
        return upright if upright.mode == "RGB" and "transparency" not in upright.info else _rgb(upright)
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise _decoder_error(error) from error


# ---------------------------------------------------------------- reading files


@contextmanager
def _opened(path: bytes | str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    try:
        # Opening a device can already have an effect: check the kind of file first.
        _require_file(os.stat(path), path)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            _require_file(before, path)
            yield file, before
    except OSError as error:
        raise _read_error(error, path) from error


def _require_file(status: os.stat_result, path: bytes | str | os.PathLike[str]) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # a folder in a list of images may be there because it could not be listed
    kind = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    raise UnreadableImage("not-a-file", f"a {kind.get(stat.S_IFMT(status.st_mode), 'device')}")


def _read_error(error: OSError, path: bytes | str | os.PathLike[str]) -> UnreadableImage:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnreadableImage("missing", "a broken link" if os.path.islink(path) else "no such file")
    if isinstance(error, PermissionError):
        return UnreadableImage("no-permission", "reading it is not allowed")
    raise_if_short(error)
    return UnreadableImage("io-error", os.strerror(error.errno) if error.errno else "read failed")


# ---------------------------------------------------------------- decoding


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header; no pixel is decoded yet."""
    if not data:
        # Refuse an empty file: Pillow would call it unknown.
        raise UnreadableImage("empty", "the file has no bytes")
    _silence_pillow()
    # Read the header only, and tell damage from another kind of file.
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES) or data[8:12] == b"WEBP":
            raise UnreadableImage("corrupt", "the header cannot be read") from error
        raise UnreadableImage("not-an-image", f"none of {', '.join(FORMATS)}") from error
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise _decoder_error(error) from error
    # Refuse a huge image before its pixels are decoded.
    if image.width * image.height > max_pixels:
        raise UnreadableImage("too-large", f"{image.width} x {image.height} pixels, more than {max_pixels}")
    return image


def _upright(image: Image.Image) -> Image.Image:
    # Pillow applies a TIFF's orientation, which is an ordinary tag there, while loading.
    if image.format == "TIFF":
        return image
    # Look the rotation up in EXIF.
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a broken EXIF block does not damage the pixels
        return image
    method = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    if method is None:
        return image
    # Rotate the pixels, and drop the tags.
    upright = image.transpose(method)
    for key in _ORIENTATION_KEYS:  # the next reader of this image must not rotate it again
        upright.info.pop(key, None)
    return upright


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage("unsupported", "floating-point pixels: the file does not say which is white")
    if image.mode.startswith("I"):
        return _gray16_to_rgb(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    opaque = Image.new("RGB", image.size, _WHITE)
    opaque.paste(layer, mask=layer)
    return opaque


def _gray16_to_rgb(image: Image.Image) -> Image.Image:
    gray = image.convert("I")
    low, high = gray.getextrema()
    if low < 0 or high > 65535:  # type: ignore[operator]
        raise UnreadableImage("unsupported", f"integer pixels from {low} to {high}, not within 0 to 65535")
    rgb = gray.point(_GRAY16, "L").convert("RGB")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        is_transparent = [255 if value == transparent else 0 for value in range(65536)]
        rgb.paste(_WHITE, mask=gray.point(is_transparent, "L"))
    return rgb


def _decoder_error(error: Exception) -> UnreadableImage:
    raise_if_short(error)
    detail = reason_of(error)
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return UnreadableImage("too-large", detail)
    return UnreadableImage("truncated" if "truncated" in detail.lower() else "corrupt", detail)


@cache
def _silence_filter() -> tuple[object, ...]:
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return warnings.filters[0]


def _silence_pillow() -> None:
    # warnings.catch_warnings is not thread-safe, so the filter is global. It is put first again wherever a caller's
    # own catch_warnings has replaced it.
    if not warnings.filters or warnings.filters[0] != _silence_filter():
        warnings.filterwarnings("ignore", module=r"PIL\.")
