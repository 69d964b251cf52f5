"""zoo/inference."""
