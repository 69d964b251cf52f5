"""zoo/transforms."""
