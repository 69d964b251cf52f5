"""zoo/evaluate/detection."""
