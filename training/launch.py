"""From the command's words to a run: recipe, overrides, data, device."""

from __future__ import annotations

from pathlib import Path

from training import recipes
from training.config import override
from zoo.datasets import open_dataset


def launch(recipe: str, data: Path, out: Path, *, overrides: list[str], device: str | None, resume: bool) -> Path:
    """Trains and returns the last checkpoint; see ``training.loop.train`` for what it raises."""
    config = override(recipes.find(recipe), overrides)
    has_split = (data / "train").is_dir() or any(data.glob("train*.parquet"))
    dataset = open_dataset(data, "train" if has_split else None)

    import torch  # after the cheap errors

    from training.loop import train

    return train(config, dataset, out, device=device or ("cuda" if torch.cuda.is_available() else "cpu"), resume=resume)
