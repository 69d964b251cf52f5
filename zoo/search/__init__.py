"""Looking into an extraction: collection -> index -> query -> page or server."""
