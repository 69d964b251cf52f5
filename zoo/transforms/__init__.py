"""Pixels only: decoding, resizing, cropping and normalising images; reads image bytes, no result files."""

MAX_PIXELS = 64_000_000
"""Default limit of an image's pixels; it stands here because this module imports in an instant, for commands."""
