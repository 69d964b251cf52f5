"""Arithmetic on arrays and tensors: random numbers, an optimiser, cosine search; touches no files."""
