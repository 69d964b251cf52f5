"""zoo/embeddings."""
