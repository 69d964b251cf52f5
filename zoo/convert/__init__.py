"""Readers of official checkpoint files; the only package that touches pickle, through an allow-list."""
