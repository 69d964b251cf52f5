"""What Tab completes besides commands, options and files: the names of models."""

from __future__ import annotations

from zoo.models.registry import MODELS


def models(incomplete: str) -> list[str]:
    """Return the models whose names begin with ``incomplete``. Once it has a dot, the names include the tag."""
    base, dot, _ = incomplete.partition(".")
    tagged = [f"{base}.{tag}" for tag in MODELS[base].weights] if dot and base in MODELS else []
    return [name for name in (tagged if dot else MODELS) if name.startswith(incomplete)]
