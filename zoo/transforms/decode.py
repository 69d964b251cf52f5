"""From a file to RGB pixels, or to a named reason why not: the only place where images are decoded.

Rules, all recorded in every manifest (``DECODER``):

- JPEG (also MPO, which phones write), PNG, GIF, WebP, BMP and TIFF, recognised by content, not by name.
- The EXIF orientation is applied. A broken EXIF block does not fail a good picture.
- Transparency is laid over white. Of an animation the first frame is taken.
- 16-bit gray is scaled by 1/257. 32-bit integers are read as 16-bit gray where all lie in 0..65535 and are
  ``unsupported`` otherwise; so is floating point: such files do not say which value is white.
- Colour profiles are not applied.
- More pixels than ``max_pixels`` are refused before any is decoded, and truncated files are never completed.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from typing import TYPE_CHECKING, BinaryIO, Literal

import PIL
from PIL import Image, features

from zoo.transforms.limits import MAX_BYTES as MAX_BYTES  # re-exported
from zoo.transforms.limits import MAX_PIXELS as MAX_PIXELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Reason = Literal[
    "missing",  # no such file (any more), or a link that leads nowhere
    "no-permission",  # the file, or a folder, may not be read
    "not-a-file",  # a folder, FIFO, socket or device
    "io-error",  # the operating system failed to read it
    "changed",  # not the file the plan saw: other size or modification time
    "empty",  # no bytes
    "too-large",  # more bytes or pixels than the ceiling
    "not-an-image",  # none of the formats above
    "unsupported",  # one of them, in a variant that cannot be shown as RGB
    "truncated",  # the end is missing
    "corrupt",  # one of the formats, and its decoder refuses it
]

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
EXTENSIONS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"))
PILLOW_MAX_PIXELS = 2 * 89_478_485  # Pillow refuses more than this whatever the caller allows
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
_ORIENTATION_IN = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for it
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
_one_large_image = threading.Lock()

# What is wrong with a file is told by its reason, and nothing else about it is printed: without a handler
# Python prints Pillow's errors about odd TIFF tags to stderr, and Pillow's libtiff prints there by itself.
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(OSError, AttributeError):  # a Pillow built with libtiff inside has no such symbol
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)  # type: ignore[attr-defined]
# glibc hands blocks above 32 MiB back to the system as soon as they are freed. Of smaller ones, and Pillow's are 16,
# every thread that ever held a large image would keep a heap full.
Image.core.set_block_size(64 * 1024 * 1024)  # type: ignore[attr-defined]


class UnreadableImage(Exception):
    """A file that gives no pixels.

    ``reason`` is from the closed set ``Reason``; ``detail`` is one line of text that is the same for the same
    bytes: no addresses, no absolute paths.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def read_bytes(path: bytes | str | os.PathLike[str], *, size: int | None = None, mtime_ns: int | None = None) -> bytes:
    """All bytes of a regular file of at most ``MAX_BYTES``.

    Never hangs on a FIFO, and opens no device.

    Args:
        size, mtime_ns: bytes and nanoseconds; where given, the file must be the one that had them.

    Raises:
        UnreadableImage: every way in which it cannot be read.
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
    """``length`` bytes, at most ``MAX_BYTES``, from ``offset`` on, of a regular file that has this time in ns.

    Raises:
        UnreadableImage: every way in which they cannot be read.
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
    """The image in these bytes: a PIL image of mode RGB, upright, opaque. Raises UnreadableImage."""
    return to_rgb(_open(data, max_pixels))


def decode_values(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8 | np.uint16]:
    """The numbers of a one-channel image, as stored: label ids or indices into a palette (uint8), depth (uint16).

    For annotations, not for pictures: nothing is scaled, rotated or converted. Returns [H, W]; of 1-bit images 0 and 1.

    Raises:
        UnreadableImage: as ``decode``; ``unsupported``: more than one channel, or values that fit neither type.
    """
    import numpy as np

    image = _open(data, max_pixels)
    try:
        image.load()
    except Exception as error:  # as above
        raise _refused(error) from error
    if image.mode in ("1", "L", "P"):
        return np.array(image, np.uint8)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.array(image)
        if values.min() >= 0 and values.max() <= 65535:
            return values.astype(np.uint16)
    raise UnreadableImage("unsupported", f"pixels of mode {image.mode}, not one channel of 8 or 16 bits")


@contextmanager
def decoded(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """``decode`` for the length of a ``with`` block; the pixels are freed at its end.

    Large images pass one at a time through all blocks of the process: many threads then need no more memory
    than one image of ``max_pixels``, 8 bytes a pixel at the worst.
    """
    image = _open(data, max_pixels)
    with _one_large_image if image.width * image.height > _LARGE_PIXELS else nullcontext():
        image = to_rgb(image)  # the name is bound anew so that the pixels as they were are freed
        try:
            yield image
        finally:
            image.close()


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode -> mode RGB, upright, opaque, by the rules above. Raises UnreadableImage."""
    try:
        image.load()
        upright = _upright(image)
        return upright if upright.mode == "RGB" and "transparency" not in upright.info else _rgb(upright)
    except UnreadableImage:
        raise
    except Exception as error:  # a mutated file can make Pillow raise nearly anything
        raise _refused(error) from error


@contextmanager
def _opened(path: bytes | str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    try:
        # Not opened before it is known to be a file: opening a device can already do something.
        _require_file(os.stat(path), path)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            _require_file(before, path)
            yield file, before
    except OSError as error:
        raise _named(error, path) from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise UnreadableImage("empty", "the file has no bytes")
    _silence_pillow()
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES) or data[8:12] == b"WEBP":
            raise UnreadableImage("corrupt", "the header cannot be read") from error
        raise UnreadableImage("not-an-image", f"none of {', '.join(FORMATS)}") from error
    except Exception as error:  # as above
        raise _refused(error) from error
    _require_at_most(image, max_pixels)
    return image


def _upright(image: Image.Image) -> Image.Image:
    # Of a TIFF the orientation is an ordinary tag, and Pillow has applied it while loading.
    if image.format == "TIFF":
        return image
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # whatever is wrong with the EXIF block, the pixels are there
        return image
    method = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    if method is None:
        return image
    upright = image.transpose(method)
    for key in _ORIENTATION_IN:  # or whoever is given this image would turn it again
        upright.info.pop(key, None)
    return upright


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage("unsupported", "floating-point pixels: the file does not say which is white")
    if image.mode.startswith("I"):
        return _rgb_of_gray16(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    opaque = Image.new("RGB", image.size, _WHITE)
    opaque.paste(layer, mask=layer)
    return opaque


def _rgb_of_gray16(image: Image.Image) -> Image.Image:
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


def _require_at_most(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UnreadableImage("too-large", f"{image.width} x {image.height} pixels, more than {max_pixels}")


def _require_file(status: os.stat_result, path: bytes | str | os.PathLike[str]) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # a folder in a list of images may be there because it could not be listed
    kind = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    raise UnreadableImage("not-a-file", f"a {kind.get(stat.S_IFMT(status.st_mode), 'device')}")


def _named(error: OSError, path: bytes | str | os.PathLike[str]) -> UnreadableImage:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnreadableImage("missing", "a broken link" if os.path.islink(path) else "no such file")
    if isinstance(error, PermissionError):
        return UnreadableImage("no-permission", "reading it is not allowed")
    return UnreadableImage("io-error", os.strerror(error.errno) if error.errno else "read failed")


def _refused(error: Exception) -> UnreadableImage:
    detail = _one_line(str(error)) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return UnreadableImage("too-large", detail)
    return UnreadableImage("truncated" if "truncated" in detail.lower() else "corrupt", detail)


def _one_line(text: str) -> str:
    text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>|0x[0-9a-fA-F]{6,}", "...", text)
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()


@cache
def _silence_filter() -> tuple[object, ...]:
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return warnings.filters[0]


def _silence_pillow() -> None:
    # A damaged file is reported by its reason, not by Pillow's warnings. warnings.catch_warnings would do it
    # for one call, but is not safe in threads; this must hold inside somebody's catch_warnings as well.
    if not warnings.filters or warnings.filters[0] != _silence_filter():
        warnings.filterwarnings("ignore", module=r"PIL\.")
