"""Read, write, verify and merge the result of an extraction: its formats and files; no network runs here."""
