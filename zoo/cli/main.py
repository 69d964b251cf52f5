"""The ``zoo`` command."""

from __future__ import annotations

from zoo.cli import demo, embeddings, evaluation, models, results
from zoo.cli.app import add_verbosity, new_app, run

app = new_app(
    "Self-supervised ResNet features: list models, extract embeddings, evaluate, export.",
    "Begin with `zoo demo`. Your own images: `zoo extract IMAGES --out OUT`.",
)
for group in (embeddings, results, models, evaluation, demo):
    app.add_typer(group.app)
add_verbosity(app)


def main() -> None:
    """Entry point of ``zoo``."""
    run(app, "zoo", resume_hint="run the same command again to go on")
