"""zoo/numerics."""
