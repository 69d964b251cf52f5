"""The models that ``zoo evaluate --model`` takes: everything that ``zoo.load`` takes, and two baselines."""

from __future__ import annotations

from zoo.api import load
from zoo.errors import UserError
from zoo.hub.weights import locate
from zoo.inference.embedder import Embedder
from zoo.models.registry import DEFAULT_MODEL, MODELS
from zoo.system.cache_dir import cache_folder

RANDOM, SUPERVISED = "random", "supervised"
TORCHVISION = MODELS["supervised_r50"].weights["tv_v1"].location  # ResNet50_Weights.IMAGENET1K_V1, 76.13 %


def require_model(model: str) -> None:
    """Find the weights, and download them where need be, without opening the network. Raises UserError."""
    if model not in (RANDOM, SUPERVISED) and not model.endswith(".onnx"):
        locate(model)


def open_model(model: str, device: str | None = None) -> Embedder:
    """Load a model by ``zoo.load``, or one of the two baselines.

    ``random`` is the architecture of the default model with random weights. ``supervised`` is the model in the folder
    ``supervised`` of the cache, where the user puts it; ``supervised_r50`` is the name of the published ones.

    Raises:
        UserError: the model cannot be opened. Without supervised weights the message says how to get torchvision's,
            the baseline of the papers.
    """
    if model == RANDOM:
        return load(f"{DEFAULT_MODEL}.{RANDOM}", device=device)
    if model == SUPERVISED:
        folder = cache_folder() / SUPERVISED
        if not folder.exists():
            raise UserError(
                f"no supervised weights in {folder}: give --model supervised_r50, which downloads torchvision's, or "
                f"put others there: download {TORCHVISION} and run `zoo convert "
                f"{TORCHVISION.rpartition('/')[2]} --from torch --licence BSD-3-Clause --out {folder}`, or give "
                "--model a file of `zoo-train export` from a supervised recipe"
            )
        return load(folder, device=device)
    return load(model, device=device)
