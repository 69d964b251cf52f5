"""Protocols that train a classifier on frozen features: kNN and linear evaluation; the encoder never changes."""
