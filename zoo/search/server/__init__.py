"""The web server of ``zoo serve``; the only folder that answers HTTP requests, and it never changes a collection."""
