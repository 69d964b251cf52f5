"""zoo/evaluate/segmentation."""
