"""zoo/export."""
