"""zoo/system."""
