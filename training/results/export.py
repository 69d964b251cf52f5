"""From a training checkpoint to the zoo: encoder and heads as safetensors, a draft of the registry entry, the card."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from training.engine import checkpoint
from training.engine.build import build_method, load_weights
from training.recipes.config import Recipe, from_json
from training.results.summary import facts
from zoo.errors import UserError
from zoo.hub.weights import WeightFile, locate, save_encoder
from zoo.models.registry import Weights
from zoo.models.resnet import count_parameters, encoder_state
from zoo.publish.card.gather import file_facts
from zoo.publish.card.render import render
from zoo.system.atomic_files import atomic_write_bytes, atomic_write_text, make_folder
from zoo.transforms.preprocess import Preprocessing

BESIDE = (".heads.safetensors", ".registry.json", ".card.md")
HEADS_FORMAT = "siamese-zoo heads 1"
_ZOO_NAMES = {"mocov2": "moco"}  # of methods, where the registry calls them otherwise
_NOT_HEADS = ("encoder", "target", "key", "queue")  # beginnings of names: the encoder, and what only training needs


def export(
    source: Path, out: Path, *, input_size: int | None = None, resize: int | None = None, half: bool = False
) -> str:
    """Writes the online encoder of a checkpoint (or of a run's last one) to ``out``; returns its sha256.

    Beside ``NAME.safetensors`` come ``NAME.heads.safetensors`` (projector, predictor, prototypes: what the method has,
    float32, with its names), ``NAME.registry.json`` (a draft of the ``ModelSpec``) and ``NAME.card.md`` (its card).

    Args:
        source: ``checkpoint-*.pt``, or the folder of a run.
        input_size, resize: the preprocessing that goes with the weights, pixels; default: the size of the training
            views, and input_size / .875 (the papers' centre crop).
        half: convolutions in float16.

    Raises:
        UserError: no checkpoint there, or ``out`` has another suffix or cannot be written.
    """
    state = checkpoint.load_last(source) if source.is_dir() else checkpoint.read(source)
    if state is None:
        raise UserError(f"{source} holds no checkpoint")
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: give it the suffix .safetensors")
    recipe = from_json(state["recipe"])
    method = build_method(recipe)
    load_weights(method, state, source)
    size = input_size or recipe.views.size
    preprocessing = Preprocessing(size, resize or round(size / 0.875), std=recipe.views.std)
    metadata = {
        "architecture": _architecture(recipe),
        "method": _ZOO_NAMES.get(recipe.method, recipe.method),
        "preprocessing": preprocessing.to_json(),
        "licence": "Apache-2.0",
        "source": f"trained with `zoo-train run {recipe.name}` on {state['data']['name']}",
        "training": json.dumps(facts(state), sort_keys=True),
    }
    make_folder(out.parent)
    sha256 = save_encoder(out, encoder_state(method.encoder), metadata, half=half)
    heads, registry, card = (out.with_suffix(suffix) for suffix in BESIDE)
    parts = _save_heads(heads, method, metadata | {"encoder_sha256": sha256})
    file = locate(out)
    draft = _registry_draft(out, recipe, file, state["data"]["name"])
    atomic_write_text(registry, json.dumps(draft, indent=1) + "\n")
    counted = replace(file.architecture, parameters=count_parameters(method.encoder))  # the registry counts no stem
    known = replace(file_facts(file), architecture=counted, half=half, heads=parts, heads_file=heads.name)
    atomic_write_text(card, render(known))
    return sha256


def _architecture(recipe: Recipe) -> str | dict[str, str]:
    """As ``zoo.hub.weights`` reads it: the name, or name and stem."""
    if recipe.stem == "imagenet":
        return recipe.architecture
    return {"name": recipe.architecture, "stem": recipe.stem}


def _save_heads(path: Path, method: Any, metadata: dict[str, Any]) -> list[str]:
    """Writes the trained modules but the encoder, no tensors where a method has none; returns their names."""
    from safetensors.torch import save

    module: nn.Module = method
    kept = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in module.state_dict().items()
        if not name.startswith(_NOT_HEADS)
    }
    kept_metadata = {k: v for k, v in metadata.items() if isinstance(v, str)} | {"format": HEADS_FORMAT}
    atomic_write_bytes(path, save(kept, kept_metadata))
    return sorted({name.partition(".")[0] for name in kept})


def _registry_draft(out: Path, recipe: Recipe, file: WeightFile, data: str) -> dict[str, Any]:
    """The fields of ``ModelSpec`` and ``Weights``; the tag is made from the data's name."""
    weights = Weights(
        location=f"bundled:{out.name}",
        sha256=file.sha256,
        licence=file.licence,
        source=file.source,
        preprocessing=file.preprocessing,
    )
    return {
        "name": out.stem,
        "method": file.method,
        "architecture": _architecture(recipe),
        "recipe": recipe.name,
        "weights": {re.sub(r"[^a-z0-9]+", "_", data.lower()).strip("_") or "own": asdict(weights)},
    }
