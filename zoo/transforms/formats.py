"""Which files are images: the formats that are read, their extensions, and names for files of other kinds."""

from __future__ import annotations

import re
import warnings
from functools import cache
from importlib.util import find_spec

from PIL import features

from zoo.system.shortage import raise_if_short
from zoo.transforms.limits import HEIC_EXTENSIONS, NEEDS_HEIC

HAS_HEIF = find_spec("pillow_heif") is not None  # the extra heic


def _has_avif() -> bool:
    """Return whether this Pillow reads AVIF. UserError: too little memory to load it, of which Pillow only warns."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = features.check("avif")
    for each in told:
        raise_if_short(ImportError(str(each.message)))
    return bool(found)


_HAS_AVIF = _has_avif()

FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF",
    *(("AVIF",) if _HAS_AVIF else ()),
    *(("HEIF",) if HAS_HEIF else ()),
)  # fmt: skip
EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"),
        *((".avif",) if _HAS_AVIF else ()),
        *(HEIC_EXTENSIONS if HAS_HEIF else ()),
    )
)

_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHER_FORMATS = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript drawing"),
    (b"\xc5\xd0\xd3\xc6", "an EPS drawing"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\1\0", "an icon"),
    (b"v/1\1", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"FUJIFILMCCD-RAW", "a raw photograph"),
    (b"qoif", "a QOI image"),  # this one and the next three: as Pillow's plugins know them
    (b"DDS ", "a DDS texture"),
    (b"SIMPLE  =", "a FITS image"),
    (b"icns", "an icon"),
    (b"PK\3\4", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip file"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"ID3", "an MP3 file"),
    (b"fLaC", "a FLAC file"),
    (b"OggS", "an Ogg file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"{\\rtf", "an RTF document"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\0\5\x16\7", "a macOS resource file"),
    (b"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull`"),
)
_BRANDS = (
    ((b"avif", b"avis"), "an AVIF image, which this Pillow cannot read"),
    ((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), f"a HEIC image ({NEEDS_HEIC})"),
    ((b"qt  ",), "a QuickTime video"),
    ((b"crx ",), "a raw photograph"),
)
_RIFF = {b"AVI ": "an AVI video", b"WAVE": "a WAV file"}
_MARKUP = re.compile(
    rb"\s*(?:(?:<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE[^>[]*(?:\[[^]]*\])?[^>]*>)\s*)*<(\w+:)?(\w+)",
    re.DOTALL | re.IGNORECASE,
)
_TEXT_BYTES = 512


def claims_a_read_format(data: bytes) -> bool:
    """Return whether the first bytes are those of a format that is read."""
    return data.startswith(_SIGNATURES) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")


def other_format(data: bytes) -> str | None:
    """Name the kind of a file that is no supported image, by its first bytes: "a PDF document"; ``None``: unknown."""
    for signature, name in _OTHER_FORMATS:
        if data.startswith(signature):
            return name
    # ISO media files: the brand tells photographs from videos.
    if data[4:8] == b"ftyp":
        return next((name for brands, name in _BRANDS if data[8:12] in brands), "an MP4 video")
    if data.startswith(b"RIFF"):
        return _RIFF.get(data[8:12])
    if data[257:262] == b"ustar":
        return "a tar file"
    if data[128:132] == b"DICM":  # DICOM PS3.10, 7.1
        return "a DICOM image"
    # Markup and text.
    head = data[:_TEXT_BYTES].removeprefix(b"\xef\xbb\xbf")
    if markup := _MARKUP.match(head):
        element = markup[2].lower()
        return {b"svg": "an SVG drawing", b"html": "an HTML page"}.get(element, "an XML or HTML file")
    if head[:9].lower() == b"<!doctype":
        return "an HTML page"
    if head[:1] in (b"{", b"[") and _is_text(head):
        return "a JSON file"
    return "a text file" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    try:
        text = head[: max(len(head) - 3, 1)].decode()  # the cut may divide a character
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)


@cache
def register_heif() -> None:
    """Let Pillow read HEIC where pillow-heif is installed."""
    if HAS_HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()
