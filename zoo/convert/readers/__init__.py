"""Readers of untrusted file formats (pickle, torch, TensorFlow); nothing in a file is ever executed."""
