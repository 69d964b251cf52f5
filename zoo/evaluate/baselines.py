"""What ``--model`` may say in an evaluation: all that ``zoo.load`` takes, and the two baselines."""

from __future__ import annotations

from zoo.api import load
from zoo.errors import UserError
from zoo.inference.embedder import Embedder
from zoo.models.registry import DEFAULT_MODEL
from zoo.system.cache_dir import cache_folder

RANDOM, SUPERVISED = "random", "supervised"
TORCHVISION = "https://download.pytorch.org/models/resnet50-0676ba61.pth"  # ResNet50_Weights.IMAGENET1K_V1, 76.13 %


def open_model(model: str, device: str | None = None) -> Embedder:
    """``zoo.load``; ``random`` is the default model's architecture without weights.

    ``supervised`` is what the user put into ``supervised`` in the cache folder: the zoo publishes no such weights.

    Raises:
        UserError: the model cannot be opened; without supervised weights, how to get torchvision's, which the papers
            compare with.
    """
    if model == RANDOM:
        return load(f"{DEFAULT_MODEL}.{RANDOM}", device=device)
    if model == SUPERVISED:
        folder = cache_folder() / SUPERVISED
        if not folder.exists():
            raise UserError(
                f"no supervised weights in {folder}: download {TORCHVISION} and run `zoo convert "
                f"{TORCHVISION.rpartition('/')[2]} --from torch --licence BSD-3-Clause --out {folder}`, or give "
                "--model a file of `zoo-train export` from a supervised recipe"
            )
        return load(folder, device=device)
    return load(model, device=device)
