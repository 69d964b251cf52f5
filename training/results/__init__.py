"""training/results."""
