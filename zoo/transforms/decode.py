"""Decode image files to RGB pixels. zoo decodes images in this module and nowhere else.

Every manifest records these rules (``DECODER``):

- JPEG (also MPO, which phones write), PNG, GIF, WebP, BMP, TIFF, AVIF and with pillow-heif HEIC, recognised by content,
  not by file name.
- The EXIF orientation is applied. Damaged metadata (EXIF, XMP, texts, profiles) never cost an image.
- Transparent pixels are composited over white. The first frame of an animation is used.
- 16-bit gray is scaled by 1/257. 32-bit integers are read as 16-bit gray if all values lie in 0..65535, and are
  ``unsupported`` otherwise. Floating-point pixels are ``unsupported``: the file does not say which value is white.
- Colour profiles are ignored.
- An image with more than ``max_pixels`` pixels, or with so many rows that they take too much memory, is refused by its
  header. A truncated file is refused; a JPEG that lacks only its end marker is whole.

``DecodeOptions`` has the choices: profiles are converted, truncated files accepted, 16 bits scaled otherwise, JPEGs
decoded to fewer pixels. A file that cannot be decoded raises ``UnreadableImage`` with a reason from a closed set.
"""

from __future__ import annotations

import ctypes
import io
import logging
import math
import os
import stat
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, BinaryIO, Literal

import PIL
from PIL import Image, ImageFile, features

from zoo.errors import reason_of
from zoo.system.shortage import raise_if_short
from zoo.transforms.formats import EXTENSIONS as EXTENSIONS  # read with the decoder by many
from zoo.transforms.formats import FORMATS, HAS_HEIF, claims_a_read_format, other_format, register_heif
from zoo.transforms.limits import DEFAULT_OPTIONS, MAX_BYTES, MAX_PIXELS, DecodeOptions
from zoo.transforms.repair import LAST_BASELINE_TAG, ended_jpegs, has_more_scans, tiff_entries, without_metadata

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

PILLOW_MAX_PIXELS = 2 * 89_478_485  # Pillow refuses more than this, whatever the caller allows
DECODER = {
    "library": "Pillow",
    "version": PIL.__version__,
    "libjpeg_turbo": features.version("libjpeg_turbo"),
    **({"pillow_heif": package_version("pillow_heif")} if HAS_HEIF else {}),
    "formats": ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"],  # AVIF came later: a run of an earlier version goes on
    "exif_orientation": "applied",
    "alpha": "over white",
    "animation": "first frame",
    "gray16": "1/257",
    "colour_profile": "ignored",
    "max_bytes": MAX_BYTES,
}

_WHITE = (255, 255, 255)
_NOTES, _DEEP, _WHOLE = "zoo.notes", "zoo.deep", "zoo.whole"  # keys of an image's info
# The decoder goes through all pixels in each scan of a JPEG, and a scan can take 12 bytes: a file of 1 MB could ask for
# an hour. Progressive files have 6 to 18 scans, the optimisers' some more.
_SCANS, _SCANNED_PIXELS = 100, 1_000_000_000
_REDUCTIONS = (8, 4, 2)  # of libjpeg's inverse DCT that Pillow offers
_STARTS_RIGHT, _STARTS_BELOW, _EXCHANGED = (2, 3, 6, 7), (3, 4, 7, 8), (5, 6, 7, 8)  # EXIF orientations
_TRUNCATED = "truncated: the end is missing, what is there was decoded"
_BAD_PROFILE = "profile-ignored: it cannot be read, or is one of other pixels"
_PROFILE_MARKS = (b"iCCP", b"ICC_PROFILE\0", b"ICCP")
_BYTES_A_PIXEL = 12  # of one image at its largest: its stored form, a converted one and the result
_SPARE_BYTES = 64 * 1024 * 1024
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_MAX_PARTS = 250_000  # strips or tiles of a TIFF; Pillow holds a Python object for each
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


def choices_json(options: DecodeOptions) -> dict[str, object]:
    """Return what a manifest says of choices that are not the defaults; its entries replace those of ``DECODER``."""
    littlecms = {"littlecms": features.version("littlecms2")} if options.icc == "convert" else {}
    return {**littlecms, **options.to_json()}


CheckSize = Callable[[int, int], None]
"""Raises UnreadableImage for a width and a height that cannot be used; orientation may still exchange the two."""
Reduction = Callable[[int, int], float]
"""By which factor an image of a width and a height may be reduced on each axis; orientation may exchange the two."""


@dataclass(frozen=True)
class WholeImage:
    """The image of which a decoded one has all pixels, or a reduced form.

    Attributes:
        width, height: size of the upright image in its file.
        box: where it lies in the decoded image, in pixels of that: left, top, right, bottom. A reduced JPEG ends in the
            middle of a pixel where its sides are no multiple of the reduction.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]

    @property
    def reduction(self) -> float:
        """Pixels of the file to a pixel of the decoded image, on each axis; 1 where none is left out."""
        return self.width / (self.box[2] - self.box[0])

    def part(self, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
        """Return where a box of the whole image lies in the decoded image."""
        scale, (left, top, right, bottom) = self.reduction, self.box
        if scale == 1:
            return box
        end = (min(right, left + box[2] / scale), min(bottom, top + box[3] / scale))
        return left + box[0] / scale, top + box[1] / scale, *end


def whole_of(image: Image.Image) -> WholeImage:
    """Return the size of the file's image and where it lies in ``image``, for any PIL image."""
    found = image.info.get(_WHOLE)
    if isinstance(found, WholeImage):
        return found
    return WholeImage(image.width, image.height, (0, 0, image.width, image.height))


def decode(data: bytes, max_pixels: int = MAX_PIXELS, options: DecodeOptions = DEFAULT_OPTIONS) -> Image.Image:
    """Decode a file's bytes to an upright, opaque PIL image of mode RGB.

    Raises:
        UnreadableImage: the bytes are not a supported image, or have more than ``max_pixels`` pixels.
    """
    return _to_rgb(_load(_open(data, max_pixels), data, options), options)


def is_jpeg(data: bytes) -> bool:
    """True if a file's bytes begin as those of a JPEG, which can be decoded to fewer pixels."""
    return data.startswith(b"\xff\xd8")


def notes_of(image: Image.Image) -> tuple[str, ...]:
    """Return what a user should know of a decoded image, each as "NAME: TEXT"; empty for nearly all images."""
    return tuple(image.info.get(_NOTES, ()))


def decode_values(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8 | np.uint16]:
    """Decode an annotation: the stored numbers of a one-channel image, neither scaled, rotated nor converted.

    Returns:
        [H, W]: label ids or palette indices as uint8 (0 and 1 for 1-bit images), or depth as uint16.

    Raises:
        UnreadableImage: as ``decode``; ``unsupported`` for more than one channel or values outside of uint16.
    """
    import numpy as np

    # Decode the whole file here, so that damage shows at once.
    image = _load(_open(data, max_pixels), data, DEFAULT_OPTIONS)
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
def decoded(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    options: DecodeOptions = DEFAULT_OPTIONS,
    *,
    check_size: CheckSize | None = None,
    reduction: Reduction | None = None,
) -> Iterator[Image.Image]:
    """Context manager form of ``decode`` that frees the pixels at the end of the ``with`` block.

    A process decodes one large image at a time: many threads then need no more memory than one image of
    ``max_pixels``, at most 12 bytes a pixel.

    Args:
        check_size: called with width and height before a pixel is decoded.
        reduction: called likewise where ``options`` decode scaled; see ``whole_of`` for what a reduced image is.
    """
    image = _open(data, max_pixels)
    size = image.size
    if check_size is not None:
        check_size(*size)
    if options.decode == "scaled" and reduction is not None:
        _reduce(image, reduction(*size))
    with _large_image_lock if _is_large(image, size) else nullcontext():
        image = _to_rgb(_load(image, data, options, size), options)  # rebinding the name frees the original pixels
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
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise _decoder_error(error) from error
    return _to_rgb(image, DEFAULT_OPTIONS)


# ---------------------------------------------------------------- reading files


@contextmanager
def _opened(path: bytes | str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    if b"\0" in os.fsencode(path):  # the system would not even be asked
        raise UnreadableImage("missing", "no such file")
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


# ---------------------------------------------------------------- opening and loading


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header; no pixel is decoded yet."""
    if not data:
        # Refuse an empty file: Pillow would call it unknown.
        raise UnreadableImage("empty", "the file has no bytes")
    _silence_pillow()
    register_heif()
    # What the header claims is bounded before Pillow makes objects of it.
    if data.startswith((b"II*", b"II+", b"MM\0*", b"MM\0+")):
        data = _with_bounded_lists(data)
    try:
        image = _header(data)
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        opened = _first_without_metadata(data, _header)
        if opened is None:
            raise _unopened(error, data) from error
        image = opened
    # Refuse a huge image before its pixels are decoded.
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImage("too-large", f"{width} x {height} pixels, more than the {max_pixels} of --max-pixels")
    scans = max(_SCANS, _SCANNED_PIXELS // max(1, width * height))
    if image.format in ("JPEG", "MPO") and has_more_scans(data, scans):
        raise UnreadableImage("too-large", f"{width} x {height} pixels in more than {scans} scans")
    if _decoded_bytes(image) > max_pixels * _BYTES_A_PIXEL + _SPARE_BYTES:
        raise UnreadableImage("too-large", f"{width} x {height} pixels: its rows or tiles take too much memory")
    return image


def _header(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    raw_modes = str([tile[3] for tile in getattr(image, "tile", ())[:1]])
    image.info[_DEEP] = "16" in raw_modes and image.mode[0] != "I"  # Pillow cuts 16-bit colours to 8 bits
    return image


def _unopened(error: Exception, data: bytes) -> UnreadableImage:
    if not isinstance(error, PIL.UnidentifiedImageError):
        return _decoder_error(error)
    if claims_a_read_format(data):
        return UnreadableImage("corrupt", "the header cannot be read")
    kind = other_format(data)
    return UnreadableImage("not-an-image", f"{f'{kind}, ' if kind else ''}none of {', '.join(FORMATS)}")


def _decoded_bytes(image: Image.Image) -> int:
    """Estimate the memory of decoding: each row of each form has a pointer of 8 bytes and at least 4 bytes."""
    stored = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}.get(image.mode, 4)
    has_alpha = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    forms = [stored, 4, *((4,) if has_alpha else ())]
    rows = max(image.height, image.width if "exif" in image.info else 0)  # an orientation may exchange them
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose tiles can be larger than the image
    sides = [tags.get(tag) for tag in (_TILE_WIDTH, _TILE_HEIGHT)]
    tile: int = math.prod(side if isinstance(side, int) else 0 for side in sides)
    stored_bytes: int = sum(rows * 12 + image.width * image.height * size for size in forms)
    return stored_bytes + 4 * tile


def _with_bounded_lists(data: bytes) -> bytes:
    """Refuse a TIFF that lists too many strips or tiles; return it without metadata if one of those is as long."""
    for tag, type, count, _ in tiff_entries(data):
        if tag >= 254 and count > _MAX_PARTS and type not in (1, 2, 6, 7):  # Pillow keeps bytes and texts as they are
            if tag > LAST_BASELINE_TAG:
                return next(without_metadata(data), data)
            raise UnreadableImage("too-large", f"tag {tag} of the TIFF lists {count} values")
    return data


def _reduce(image: Image.Image, most: float) -> None:
    """Set an opened JPEG to be decoded to 1/2, 1/4 or 1/8 of its pixels on each axis; in place."""
    factor = next((factor for factor in _REDUCTIONS if factor <= most), 1)
    if image.format not in ("JPEG", "MPO") or factor == 1:
        return
    width, height = image.size
    if image.draft(None, (width // factor, height // factor)) is not None:
        # Pillow rounds the reduced sides up: the last pixel can lie half outside.
        image.info[_WHOLE] = WholeImage(width, height, (0, 0, width / factor, height / factor))


def _is_large(image: Image.Image, size: tuple[int, int]) -> bool:
    """True if decoding takes so much memory that no other such image may be decoded at the same time."""
    # libjpeg holds all coefficients of a progressive file, however few pixels it makes of them.
    width, height = size if "progression" in image.info else image.size
    return width * height > _LARGE_PIXELS


def _load(image: Image.Image, data: bytes, options: DecodeOptions, size: tuple[int, int] | None = None) -> Image.Image:
    """Decode the pixels of an opened image; where that fails, of what ``zoo.transforms.repair`` makes of its file.

    Args:
        size: of the whole image, which a repaired one must have; ``None`` is that of ``image``.
    """
    try:
        image.load()
        return image
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        found = _decoder_error(error)
        size, caught = size or image.size, error
        image.close()
    if found.reason == "too-large" and not isinstance(caught, ValueError):
        raise found from caught
    # A missing end marker, and damaged metadata behind the pixels; first what is likely, since each try decodes all.
    if found.reason == "truncated":
        repaired = _jpeg_without_end(data) or _first_without_metadata(data, _loaded)
    else:
        repaired = _first_without_metadata(data, _loaded) or _jpeg_without_end(data)
    if repaired is not None and repaired.size == size:
        return repaired
    # The pixels themselves are not whole.
    if options.truncated == "accept" and found.reason == "truncated":
        accepted = _partly_loaded(data)
        if accepted is not None and accepted.size == size:
            accepted.info[_NOTES] = (_TRUNCATED,)
            return accepted
    raise found from caught


def _loaded(data: bytes) -> Image.Image:
    image = _header(data)
    image.load()
    return image


def _first_without_metadata(data: bytes, read: Callable[[bytes], Image.Image]) -> Image.Image | None:
    for cleaned in without_metadata(data):
        with suppress(Exception):  # as above
            image = read(cleaned)
            if not image.info.get("icc_profile") and any(mark in data for mark in _PROFILE_MARKS):
                image.info["icc_profile"] = None  # there is one, and it cannot be read
            return image
    return None


def _jpeg_without_end(data: bytes) -> Image.Image | None:
    candidates = ended_jpegs(data) if data.startswith(b"\xff\xd8") else None
    if candidates is None:
        return None
    try:
        first = _loaded(candidates[0])
        pixels = _crc_of_pixels(first)
        return first if all(_crc_of_pixels(_loaded(other)) == pixels for other in candidates[1:]) else None
    except Exception:  # as above
        return None


def _crc_of_pixels(image: Image.Image) -> int:
    crc = 0
    for top in range(0, image.height, 256):
        crc = zlib.crc32(image.crop((0, top, image.width, min(top + 256, image.height))).tobytes(), crc)
    return crc


class _AcceptTruncated(threading.local):
    """Pillow's global switch as one per thread: it is true only in a thread that decodes a truncated file."""

    on = False

    def __bool__(self) -> bool:
        return self.on


_accept_truncated = _AcceptTruncated()


def _partly_loaded(data: bytes) -> Image.Image | None:
    """Decode what is there of a truncated file; ``None`` where that is nothing, or one colour."""
    if not isinstance(ImageFile.LOAD_TRUNCATED_IMAGES, _AcceptTruncated):
        ImageFile.LOAD_TRUNCATED_IMAGES = _accept_truncated  # type: ignore[assignment]
    _accept_truncated.on = True
    try:
        image = _loaded(data)
        extrema = image.getextrema()
    except Exception:  # as above
        return None
    finally:
        _accept_truncated.on = False
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return image if any(low != high for low, high in bands) else None


# ---------------------------------------------------------------- pixels


def _to_rgb(image: Image.Image, options: DecodeOptions) -> Image.Image:
    """Convert a loaded image; its notes go along."""
    try:
        upright = _upright(image)
        has_profile = options.icc == "convert" and "icc_profile" in upright.info
        if upright.mode == "RGB" and "transparency" not in upright.info and not has_profile:
            rgb, notes = upright, list(notes_of(image))
        else:
            rgb, notes = _rgb(upright, options, list(notes_of(image)))
        if upright.info.get(_DEEP):
            from zoo.transforms.colour import DARK, is_dark_16

            highest = max(high for _, high in rgb.getextrema())  # type: ignore[misc]
            notes += [DARK] if is_dark_16(highest * 256, options.white16) else []
        rgb.info[_NOTES] = tuple(notes)
        if _WHOLE in upright.info:
            rgb.info[_WHOLE] = upright.info[_WHOLE]
        return rgb
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        raise _decoder_error(error) from error


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
    if method is None or not isinstance(orientation, int):
        return image
    # Rotate the pixels, and drop the tags.
    upright = image.transpose(method)
    for key in _ORIENTATION_KEYS:  # the next reader of this image must not rotate it again
        upright.info.pop(key, None)
    if _WHOLE in image.info:
        upright.info[_WHOLE] = _turned(image.info[_WHOLE], orientation, upright.size)
    return upright


def _turned(whole: WholeImage, orientation: int, size: tuple[int, int]) -> WholeImage:
    """Turn the place of a whole image with the pixels.

    Args:
        size: of the turned pixels.
    """
    width, height, sides = whole.width, whole.height, whole.box[2:]
    if orientation in _EXCHANGED:
        width, height, sides = height, width, (sides[1], sides[0])
    left, right = (size[0] - sides[0], size[0]) if orientation in _STARTS_RIGHT else (0, sides[0])
    top, bottom = (size[1] - sides[1], size[1]) if orientation in _STARTS_BELOW else (0, sides[1])
    return WholeImage(width, height, (left, top, right, bottom))


def _rgb(image: Image.Image, options: DecodeOptions, notes: list[str]) -> tuple[Image.Image, list[str]]:
    """Convert to mode RGB, opaque. Notes are added to ``notes``."""
    profile = image.info.get("icc_profile") if options.icc == "convert" else None
    if options.icc == "convert" and "icc_profile" in image.info and not profile:
        notes.append(_BAD_PROFILE)
    if image.mode == "F":
        raise UnreadableImage("unsupported", "floating-point pixels: the file does not say which is white")
    if image.mode.startswith("I"):
        return _gray16_to_rgb(image, profile, options, notes), notes
    colours = _without_profile(image, profile, notes) if profile else None
    if not image.has_transparency_data:
        return colours or image.convert("RGB"), notes
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    opaque = Image.new("RGB", image.size, _WHITE)
    opaque.paste(colours or layer, mask=layer)
    return opaque, notes


def _without_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image | None:
    from zoo.transforms.colour import to_srgb

    converted = to_srgb(image, profile)
    if converted is None:
        notes.append(_BAD_PROFILE)
    return converted


def _gray16_to_rgb(image: Image.Image, profile: bytes | None, options: DecodeOptions, notes: list[str]) -> Image.Image:
    from zoo.transforms.colour import DARK, gray16_to_8, is_dark_16

    gray = image.convert("I")
    low, high = gray.getextrema()
    if low < 0 or high > 65535:  # type: ignore[operator]
        raise UnreadableImage("unsupported", f"integer pixels from {low} to {high}, not within 0 to 65535")
    if is_dark_16(int(high), options.white16):  # type: ignore[arg-type]
        notes.append(DARK)
    eight = gray16_to_8(gray, options.white16)
    rgb = (_without_profile(eight, profile, notes) if profile else None) or eight.convert("RGB")
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
