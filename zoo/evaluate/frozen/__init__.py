"""zoo/evaluate/frozen."""
