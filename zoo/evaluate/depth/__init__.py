"""zoo/evaluate/depth."""
