"""Protocols that score a representation on labelled images; may use models and data sets, never the command line."""
