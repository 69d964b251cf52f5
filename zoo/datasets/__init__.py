"""zoo/datasets."""
