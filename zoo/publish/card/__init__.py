"""Model cards: facts -> sections -> one Markdown text, for the registry, for a model hub and for a user's own file."""
