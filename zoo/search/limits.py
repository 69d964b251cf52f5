"""Limits of a search, in a module that imports nothing: ``zoo --help`` reads them."""

MAX_NEIGHBOURS = 1000
"""Largest number of neighbours that ``zoo search -k`` returns for a query."""
