"""What Tab completes besides commands, options and files: the names of models."""

from __future__ import annotations

from zoo.models.registry import MODELS


def models(incomplete: str) -> list[str]:
    """Return the names that begin with ``incomplete``; from the dot on, those with their tags."""
    base, dot, _ = incomplete.partition(".")
    tagged = [f"{base}.{tag}" for tag in MODELS[base].weights] if dot and base in MODELS else []
    return [name for name in (tagged if dot else MODELS) if name.startswith(incomplete)]
