"""Protocols that judge a representation; each a file."""
