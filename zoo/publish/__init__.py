"""zoo/publish."""
