"""Pixels only: decoding, resizing, cropping and normalising images; reads image bytes, no result files."""
