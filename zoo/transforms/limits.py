"""Limits of the image decoder, in a module that imports neither numpy nor Pillow: ``zoo --help`` reads them."""

MAX_PIXELS = 64_000_000
"""Default limit of pixels in one image; larger images are refused before a pixel is decoded."""
MAX_BYTES = 512 * 1024 * 1024
"""Limit of bytes in one image file."""
