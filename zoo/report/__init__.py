"""The papers' tables with measured rows, and figures, from result files; writes Markdown, HTML and PNG only."""
