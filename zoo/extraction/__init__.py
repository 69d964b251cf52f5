"""Run an extraction: plan it, make its shards here or on a cluster, update it; files are written by zoo.embeddings."""
