"""What ``--model`` may say in an evaluation: all that ``zoo.load`` takes, and the two baselines."""

from __future__ import annotations

from zoo.api import load
from zoo.embed import Embedder
from zoo.errors import UserError
from zoo.registry import DEFAULT_MODEL

RANDOM, SUPERVISED = "random", "supervised"


def open_model(model: str, device: str | None = None) -> Embedder:
    """``zoo.load``; ``random`` is the default model's architecture without weights.

    ``supervised`` asks for weights that were trained with labels; the zoo has none, so it is an error that says how to
    give them by path.

    Raises:
        UserError: the model cannot be opened.
    """
    if model == RANDOM:
        return load(f"{DEFAULT_MODEL}.{RANDOM}", device=device)
    if model == SUPERVISED:
        raise UserError(
            "the zoo has no supervised weights: give --model the path of a safetensors file of a supervised ResNet "
            "(`zoo-train run` has supervised recipes), or of a folder that timm wrote"
        )
    return load(model, device=device)
