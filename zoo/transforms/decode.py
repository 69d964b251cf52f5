"""Decode image files to RGB pixels. zoo decodes images in this module and nowhere else.

Here are the calls and the limits; ``image_bytes`` reads files, ``load_pixels`` loads and repairs them, ``upright_rgb``
converts what was loaded.

Every manifest records these rules (``DECODER``):

- JPEG (also MPO, which phones write), PNG, GIF, WebP, BMP, TIFF, AVIF and with pillow-heif HEIC, recognised by content,
  not by file name.
- The EXIF orientation is applied, or XMP's where EXIF has none. Damaged metadata (EXIF, XMP, texts, profiles) never
  cost an image.
- Transparent pixels are composited over white. The first frame of an animation is used, and the first page of a TIFF;
  where that is marked as a reduced form, the first page that is whole, or the first one below it (SubIFD). A thumbnail
  of raw data is noted.
- 16-bit gray is scaled by 1/257, and inverted where its TIFF says that 0 is white. 32-bit integers are read as 16-bit
  gray if all values lie in 0..65535, and are ``unsupported`` otherwise, as are negative 8-bit integers. Floating-point
  pixels are ``unsupported``: the file does not say which value is white.
- Colour profiles are ignored.
- An image with more than ``max_pixels`` pixels, or with so many rows that they take too much memory, is refused by its
  header. A truncated file is refused, and a JPEG that was cut off and closed with an end marker; one that lacks only
  its end marker is whole. A progressive JPEG without its last scans is noted, and one with arithmetic coding, whose
  damage cannot be seen.
- A PNG whose pixels have another checksum is refused, and a WebP or AVIF that ends in zeros.

``DecodeOptions`` has the choices: profiles are converted, truncated files accepted, 16 bits scaled otherwise, JPEGs
decoded to fewer pixels. A file that cannot be decoded raises ``UnreadableImage`` with a reason from a closed set.
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

import PIL
from PIL import Image, features

from zoo.transforms.formats import EXTENSIONS as EXTENSIONS  # read with the decoder by many
from zoo.transforms.formats import FORMATS, HAS_HEIF, claims_a_read_format, other_format, register_heif
from zoo.transforms.jpeg_scans import has_more_scans, unread_kind
from zoo.transforms.limits import DEFAULT_OPTIONS, MAX_BYTES, MAX_PIXELS, DecodeOptions
from zoo.transforms.load_pixels import first_without_metadata, load_pixels, read_header
from zoo.transforms.repair import LAST_BASELINE_TAG, without_metadata
from zoo.transforms.tiff_directory import TIFF_SIGNATURES, tiff_entries, with_full_image_first
from zoo.transforms.unreadable import UnreadableImage, decoder_error
from zoo.transforms.upright_rgb import WHOLE, WholeImage, loaded_to_rgb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

# The decoder goes through all pixels in each scan of a JPEG, and a scan can take 12 bytes: a file of 1 MB could ask for
# an hour. Progressive files have 6 to 18 scans, the optimisers' some more.
_SCANS, _SCANNED_PIXELS = 100, 1_000_000_000
_REDUCTIONS = (8, 4, 2)  # of libjpeg's inverse DCT that Pillow offers
_BYTES_A_PIXEL = 12  # of one image at its largest: its stored form, a converted one and the result
_SPARE_BYTES = 64 * 1024 * 1024
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_MAX_PARTS = 250_000  # strips or tiles of a TIFF; Pillow holds a Python object for each
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


def choices_json(options: DecodeOptions) -> dict[str, object]:
    """Return what a manifest says of choices that are not the defaults; its entries replace those of ``DECODER``."""
    littlecms = {"littlecms": features.version("littlecms2")} if options.icc == "convert" else {}
    return {**littlecms, **options.to_json()}


CheckSize = Callable[[int, int], None]
"""Raises UnreadableImage for a width and a height that cannot be used; orientation may still exchange the two."""
Reduction = Callable[[int, int], float]
"""By which factor an image of a width and a height may be reduced on each axis; orientation may exchange the two."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS, options: DecodeOptions = DEFAULT_OPTIONS) -> Image.Image:
    """Decode a file's bytes to an upright, opaque PIL image of mode RGB.

    Raises:
        UnreadableImage: the bytes are not a supported image, or have more than ``max_pixels`` pixels.
    """
    return loaded_to_rgb(load_pixels(_open(data, max_pixels), data, options), options)


def is_jpeg(data: bytes) -> bool:
    """True if a file's bytes begin as those of a JPEG, which can be decoded to fewer pixels."""
    return data.startswith(b"\xff\xd8")


def decode_values(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8 | np.uint16]:
    """Decode an annotation: the stored numbers of a one-channel image, neither scaled, rotated nor converted.

    Returns:
        [H, W]: label ids or palette indices as uint8 (0 and 1 for 1-bit images), or depth as uint16.

    Raises:
        UnreadableImage: as ``decode``; ``unsupported`` for more than one channel or values outside of uint16.
    """
    import numpy as np

    # Decode the whole file here, so that damage shows at once.
    image = load_pixels(_open(data, max_pixels), data, DEFAULT_OPTIONS)
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
        image = loaded_to_rgb(
            load_pixels(image, data, options, size), options
        )  # rebinding the name frees the original pixels
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
        raise decoder_error(error) from error
    return loaded_to_rgb(image, DEFAULT_OPTIONS)


# ---------------------------------------------------------------- opening and loading


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header; no pixel is decoded yet."""
    if not data:
        # Refuse an empty file: Pillow would call it unknown.
        raise UnreadableImage("empty", "the file has no bytes")
    _silence_pillow()
    register_heif()
    # What the header claims is bounded before Pillow makes objects of it.
    if data.startswith(TIFF_SIGNATURES):
        data = _with_bounded_lists(with_full_image_first(data))
    try:
        image = read_header(data)
    except Exception as error:  # a damaged file can make Pillow raise nearly anything
        opened = first_without_metadata(data, read_header)
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


def _unopened(error: Exception, data: bytes) -> UnreadableImage:
    if isinstance(error, UnreadableImage):
        return error
    if not isinstance(error, PIL.UnidentifiedImageError):
        return decoder_error(error)
    if (unread := unread_kind(data)) is not None:
        return UnreadableImage("unsupported", f"{unread}: convert it to one of 8 bits, or to PNG")
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
        image.info[WHOLE] = WholeImage(width, height, (0, 0, width / factor, height / factor))


def _is_large(image: Image.Image, size: tuple[int, int]) -> bool:
    """True if decoding takes so much memory that no other such image may be decoded at the same time."""
    # libjpeg holds all coefficients of a progressive file, however few pixels it makes of them.
    width, height = size if "progression" in image.info else image.size
    return width * height > _LARGE_PIXELS


@cache
def _silence_filter() -> tuple[object, ...]:
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return warnings.filters[0]


def _silence_pillow() -> None:
    # warnings.catch_warnings is not thread-safe, so the filter is global. It is put first again wherever a caller's
    # own catch_warnings has replaced it.
    if not warnings.filters or warnings.filters[0] != _silence_filter():
        warnings.filterwarnings("ignore", module=r"PIL\.")
