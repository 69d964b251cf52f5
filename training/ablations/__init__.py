"""training/ablations."""
