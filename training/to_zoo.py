"""From a training checkpoint to the zoo: encoder and heads as safetensors, a draft of the registry entry and a card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from training import checkpoint
from training.build import build_method
from training.config import Recipe, from_json
from zoo.encoder import encoder_state
from zoo.errors import UserError
from zoo.files import atomic_write_bytes, atomic_write_text, make_folder
from zoo.preprocess import Preprocessing
from zoo.registry import ARCHITECTURES, Weights
from zoo.weights import save_encoder

BESIDE = (".heads.safetensors", ".registry.json", ".card.md")
HEADS_FORMAT = "siamese-zoo heads 1"
_NOT_HEADS = ("encoder", "target", "key", "queue")  # beginnings of names: the encoder, and what only training needs


def export(
    source: Path, out: Path, *, input_size: int | None = None, resize: int | None = None, half: bool = False
) -> str:
    """Writes the online encoder of a checkpoint (or of a run's last one) to ``out``; returns its sha256.

    Beside ``NAME.safetensors`` come ``NAME.heads.safetensors`` (projector, predictor, prototypes: what the method has,
    float32, with its names), ``NAME.registry.json`` (a draft of the ``ModelSpec``) and ``NAME.card.md`` (of the card).

    Args:
        source: ``checkpoint-*.pt``, or the folder of a run.
        input_size, resize: the preprocessing that goes with the weights, pixels; default: the size of the training
            views, and input_size / .875 (the papers' centre crop).
        half: convolutions in float16.

    Raises:
        UserError: no checkpoint there, or ``out`` cannot be written.
    """
    state = checkpoint.load_last(source) if source.is_dir() else checkpoint.read(source)
    if state is None:
        raise UserError(f"{source} holds no checkpoint")
    recipe = from_json(state["recipe"])
    method = build_method(recipe)
    method.load_state_dict(state["method"])
    size = input_size or recipe.views.size
    preprocessing = Preprocessing(size, resize or round(size / 0.875))
    metadata = {
        "architecture": _architecture(recipe),
        "method": recipe.method,
        "preprocessing": preprocessing.to_json(),
        "licence": "Apache-2.0",
        "recipe": json.dumps(state["recipe"], sort_keys=True),
        "data": json.dumps(state["data"], sort_keys=True),
        "step": str(state["step"]),
        "total_steps": str(state["total_steps"]),
    }
    make_folder(out.parent)
    sha256 = save_encoder(out, encoder_state(method.encoder), metadata, half=half)
    _save_heads(out.with_suffix(BESIDE[0]), method, metadata | {"encoder_sha256": sha256})
    draft = _registry_draft(out, recipe, preprocessing, sha256)
    atomic_write_text(out.with_suffix(BESIDE[1]), json.dumps(draft, indent=1) + "\n")
    atomic_write_text(out.with_suffix(BESIDE[2]), _card_draft(out, recipe, state, preprocessing, sha256))
    return sha256


def _architecture(recipe: Recipe) -> str:
    """As ``zoo.weights`` reads it: the name, or JSON of name and stem."""
    if recipe.stem == "imagenet":
        return recipe.architecture
    return json.dumps({"name": recipe.architecture, "stem": recipe.stem})


def _save_heads(path: Path, method: Any, metadata: dict[str, Any]) -> None:
    """The trained modules but the encoder; a file without tensors where a method has none."""
    from safetensors.torch import save

    module: nn.Module = method
    kept = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in module.state_dict().items()
        if not name.startswith(_NOT_HEADS)
    }
    kept_metadata = {k: v for k, v in metadata.items() if k != "preprocessing"} | {"format": HEADS_FORMAT}
    atomic_write_bytes(path, save(kept, kept_metadata))


def _registry_draft(out: Path, recipe: Recipe, preprocessing: Preprocessing, sha256: str) -> dict[str, Any]:
    """The fields of ``ModelSpec`` and ``Weights``: name, tag and source are to be filled in."""
    weights = Weights(
        location=f"bundled:{out.name}",
        sha256=sha256,
        licence="Apache-2.0",
        source="TODO: who trained it, on what",
        preprocessing=preprocessing,
        card=f"{out.stem}.md",
        selection="TODO: how the recipe was chosen, and on which images",
    )
    return {
        "name": out.stem,
        "method": recipe.method,
        "architecture": (
            recipe.architecture if recipe.stem == "imagenet" else {"name": recipe.architecture, "stem": recipe.stem}
        ),
        "recipe": recipe.name,
        "weights": {"TODO-tag": asdict(weights)},
    }


def _card_draft(out: Path, recipe: Recipe, state: dict[str, Any], preprocessing: Preprocessing, sha256: str) -> str:
    """What is known of the run; what is not, as TODO."""
    optim, architecture = recipe.optim, ARCHITECTURES[recipe.architecture]
    seen = state["step"] * optim.batch_size
    size = f"{architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters"
    crop = preprocessing.says
    unfinished = "" if state["step"] == state["total_steps"] else f" of {state['total_steps']:,}: not finished"
    return f"""---
library_name: timm
pipeline_tag: image-feature-extraction
license: apache-2.0
tags: [self-supervised, {recipe.method}, resnet, image-embedding]
---

# {out.stem}

TODO: one sentence on what it is good for, and what it is not.

| | |
|---|---|
| embedding | {size} ({recipe.architecture}) |
| pixels | RGB, {crop} |
| file | `{out.name}`, sha256 `{sha256}` |
| heads | `{out.with_suffix(BESIDE[0]).name}` |
| data | {state["data"]["name"]}, {state["data"]["images"]:,} images; TODO: licence, and what was done to them |
| recipe | `zoo-train run {recipe.name}`: {recipe.views.size} pixel views, {optim.name}, base lr {optim.lr:g} per 256, \
batch {optim.batch_size}, weight decay {optim.weight_decay:g}, seed {recipe.seed}, {recipe.precision} |
| length | {state["step"]:,} steps{unfinished}, {seen:,} images, {state["seconds"] / 60:.1f} minutes |
| hardware | {", then ".join(state["hardware"])} |

## Scores

TODO: `zoo evaluate knn --model {out.name} --data DATA --out results/knn.json`, beside the same network with random
weights, with intervals.

## Limits

TODO: what the data lack, and whom that may harm.
"""
