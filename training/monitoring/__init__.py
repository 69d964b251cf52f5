"""training/monitoring."""
