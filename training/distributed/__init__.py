"""Ranks of a run and what they exchange (collectives, synchronised BN); knows no method, data or recipe."""
