"""zoo/search/server."""
