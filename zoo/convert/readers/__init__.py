"""zoo/convert/readers."""
