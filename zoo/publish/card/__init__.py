"""Model cards as Markdown, for the registry, for a model hub and for a user's own file; runs no network."""
