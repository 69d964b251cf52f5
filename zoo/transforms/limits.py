"""Limits and choices of the image decoder, without numpy and Pillow: ``zoo --help`` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from zoo.errors import UserError

MAX_PIXELS = 64_000_000
"""Default limit of pixels in one image; larger images are refused before a pixel is decoded."""
MAX_BYTES = 512 * 1024 * 1024
"""Limit of bytes in one image file."""
WHITE_16 = 65535
"""The value of white in 16-bit gray, unless a user says otherwise."""

HEIC_EXTENSIONS = (".heic", ".heif", ".hif")
NEEDS_HEIC = 'pip install "siamese-zoo[heic]"'

Icc = Literal["ignore", "convert"]
Truncated = Literal["refuse", "accept"]
Decode = Literal["exact", "scaled"]
LEAST_SCALE = 2
"""``--decode scaled`` keeps at least this many times the pixels, on each axis, that the resize makes of an image."""
_JPEG_SCALING = f"DCT, at least {LEAST_SCALE}x"  # in manifests


@dataclass(frozen=True)
class DecodeOptions:
    """What a user can choose about decoding; the defaults are the rules of ``zoo.transforms.decode``.

    Attributes:
        icc: ``convert`` converts pixels from an embedded colour profile to sRGB.
        truncated: ``accept`` decodes what is there of a file whose end is missing.
        white16: value of white in 16-bit gray, 255 to 65535; 4095 where 12 bits are stored in 16.
        decode: ``scaled`` lets the JPEG decoder make 1/2, 1/4 or 1/8 of the pixels on each axis, where at least
            ``LEAST_SCALE`` times the size that the preprocessing resizes to is left. Other formats are decoded whole.

    Raises:
        UserError: a value is unknown or out of range.
    """

    icc: Icc = "ignore"
    truncated: Truncated = "refuse"
    white16: int = WHITE_16
    decode: Decode = "exact"

    def __post_init__(self) -> None:
        if self.icc not in ("ignore", "convert"):
            raise UserError(f"unknown icc {self.icc!r}: choose ignore or convert")
        if self.truncated not in ("refuse", "accept"):
            raise UserError(f"unknown truncated {self.truncated!r}: choose refuse or accept")
        if self.decode not in ("exact", "scaled"):
            raise UserError(f"unknown decode {self.decode!r}: choose exact or scaled")
        if not 255 <= self.white16 <= WHITE_16:
            raise UserError(f"white16 {self.white16}: give a number from 255 to {WHITE_16}")

    def to_json(self) -> dict[str, object]:
        """Return the choices that differ from the defaults, as entries of a manifest's ``decoder``."""
        return {
            **({"colour_profile": "to sRGB"} if self.icc == "convert" else {}),
            **({"truncated": "accept"} if self.truncated == "accept" else {}),
            **({"gray16": f"255/{self.white16}"} if self.white16 != WHITE_16 else {}),
            **({"jpeg_scaling": _JPEG_SCALING} if self.decode == "scaled" else {}),
        }

    @classmethod
    def from_json(cls, decoder: Mapping[str, object]) -> DecodeOptions:
        """Read the choices back from a manifest's ``decoder``; keys that are not there are the defaults."""
        scale = str(decoder.get("gray16", "")).removeprefix("255/")
        return cls(
            icc="convert" if decoder.get("colour_profile") == "to sRGB" else "ignore",
            truncated=cast(Truncated, decoder.get("truncated", "refuse")),
            white16=int(scale) if scale.isdecimal() else WHITE_16,
            decode="scaled" if "jpeg_scaling" in decoder else "exact",
        )


DEFAULT_OPTIONS = DecodeOptions()
