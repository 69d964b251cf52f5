"""zoo/extraction."""
