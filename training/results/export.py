"""Exports a training checkpoint to the zoo: encoder and heads as safetensors, a draft registry entry, the card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from training.engine import checkpoint
from training.methods import Method, build_method
from training.methods.base import recipe_architecture
from training.recipes.config import Recipe, from_json
from training.recipes.plugins import by_module
from training.results.summary import run_facts
from zoo.errors import UserError
from zoo.hub.exported_encoder import FORMAT, FORMAT_2, HEADS_SUFFIX, save_encoder
from zoo.hub.weights import WeightFile, locate
from zoo.models.registry import ARCHITECTURES, Weights
from zoo.models.resnet import encoder_state
from zoo.models.state_dict import to_safetensors
from zoo.publish.card.gather import file_facts
from zoo.publish.card.render import render
from zoo.system.atomic_files import atomic_write_bytes, atomic_write_text, make_folder
from zoo.system.json_types import JSON
from zoo.transforms.preprocess import Preprocessing

COMPANION_SUFFIXES = (HEADS_SUFFIX, ".registry.json", ".card.md")
HEADS_FORMAT = "siamese-zoo heads 1"
_REGISTRY_NAMES = {"mocov2": "moco"}  # methods that the registry calls by another name


def export(
    source: Path,
    out: Path,
    *,
    input_size: int | None = None,
    resize: int | None = None,
    half: bool = False,
    method: str | None = None,
    licence: str = "unknown",
) -> str:
    """Write the online encoder of a checkpoint to ``out`` and return the file's sha256.

    Three files are written beside ``NAME.safetensors``: ``NAME.heads.safetensors`` (the method's heads in float32, such
    as projector, predictor and prototypes), ``NAME.registry.json`` (a draft of the ``ModelSpec``) and ``NAME.card.md``
    (the model card).

    Args:
        source: ``checkpoint-*.pt``, or the folder of a run, whose last checkpoint is used.
        input_size, resize: preprocessing that belongs to the weights, in pixels; default: the size of the training
            views, and input_size / .875 (the papers' centre crop).
        half: store convolutions in float16.
        method: ``module:Class`` or ``FILE.py:Class`` of the checkpoint's method, where that is the user's own: a
            checkpoint alone never makes this process import a module.
        licence: SPDX name of the licence that the user gives the weights.

    Raises:
        UserError: there is no checkpoint, or ``out`` has another suffix or cannot be written.
    """
    # Read the checkpoint and check the options.
    state = checkpoint.load_last(source) if source.is_dir() else checkpoint.read(source)
    if state is None:
        raise UserError(f"{source} holds no checkpoint: give the folder of a run, or a checkpoint-*.pt")
    checkpoint.require_complete(state, source)
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: give it the suffix .safetensors")
    # Rebuild the trained method from its recipe.
    recipe = from_json(state["recipe"])
    if ":" in recipe.method and (method is None or recipe.method != by_module(method)):
        raise UserError(
            f"{source} was trained by {recipe.method}, which is not part of siamese-zoo: add --method {recipe.method} "
            "if you trust that module, which is then imported"
        )
    if ":" not in recipe.method and method is not None:
        raise UserError(f"--method {method}: {source} was trained by {recipe.method} of siamese-zoo; leave it away")
    network = build_method(recipe, state["data"]["images"])
    checkpoint.load_weights(network, state, source)
    network.before_export()
    # Describe how images must be prepared for the encoder.
    size = input_size or recipe.views.size
    preprocessing = Preprocessing(size, resize or round(size / 0.875), std=recipe.views.std)
    # Collect the metadata that the file carries.
    architecture = _architecture(recipe)
    metadata: dict[str, object] = {
        "format": FORMAT_2 if "padding" in architecture else FORMAT,
        "architecture": architecture,
        "method": _REGISTRY_NAMES.get(recipe.method, recipe.method.rpartition(":")[2].lower()),
        "preprocessing": preprocessing.to_json(),
        "licence": licence,
        "source": f"trained with `zoo-train run {recipe.name}` on {state['data']['name']}",
        "training": json.dumps(run_facts(state), sort_keys=True),
    }
    # Write the encoder, then the heads that refer to its checksum.
    make_folder(out.parent)
    sha256 = save_encoder(out, encoder_state(network.encoder), metadata, half=half)
    heads, registry, card = (out.with_suffix(suffix) for suffix in COMPANION_SUFFIXES)
    parts = _save_heads(heads, network, metadata | {"encoder_sha256": sha256})
    # Write a draft of the registry's entry.
    file = locate(out)
    draft = _registry_draft(out, recipe, file, state["data"]["name"])
    atomic_write_text(registry, json.dumps(draft, indent=1) + "\n")
    card_facts = replace(file_facts(file), half=half, heads=parts, heads_file=heads.name)
    atomic_write_text(card, render(card_facts))
    return sha256


def _architecture(recipe: Recipe) -> str | dict[str, JSON]:
    """Return the architecture as ``zoo.hub.exported_encoder`` reads it: a name, or a name with what else it needs."""
    if recipe.architecture not in ARCHITECTURES:
        found = recipe_architecture(recipe)
        network: dict[str, JSON] = {"name": found.timm_name, "stem": found.stem, "padding": found.padding}
        args = cast(dict[str, JSON], dict(found.model_args))
        plain = found.variant(stem="imagenet", padding="symmetric", project_first=False)
        sizes = {"num_features": found.num_features, "parameters": plain.parameters}  # of timm's own network
        return network | {"project_first": found.project_first, "model_args": args, **sizes}
    if recipe.padding != "symmetric" or recipe.project_first:
        network = {"name": recipe.architecture, "stem": recipe.stem}
        return network | {"padding": recipe.padding, "project_first": recipe.project_first}
    if recipe.stem == "imagenet":
        return recipe.architecture
    return {"name": recipe.architecture, "stem": recipe.stem}


def _save_heads(path: Path, method: Method, metadata: Mapping[str, object]) -> list[str]:
    """Write all trained modules except the encoder, and return their names."""
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in method.state_dict().items()
        if not name.startswith(("encoder", *method.training_only))
    }
    texts = {key: value for key, value in metadata.items() if isinstance(value, str)}
    atomic_write_bytes(path, to_safetensors(tensors, texts | {"format": HEADS_FORMAT}))
    return sorted({name.partition(".")[0] for name in tensors})


def _registry_draft(out: Path, recipe: Recipe, file: WeightFile, data: str) -> dict[str, object]:
    """Return the fields of ``ModelSpec`` and ``Weights``; the tag is made from the data's name."""
    weights = Weights(
        location=f"bundled:{out.name}",
        sha256=file.sha256,
        licence=file.licence,
        source=file.source,
        preprocessing=file.preprocessing,
        padding=file.architecture.padding,
    )
    return {
        "name": out.stem,
        "method": file.method,
        "architecture": _architecture(recipe),
        "recipe": recipe.name,
        "weights": {re.sub(r"[^a-z0-9]+", "_", data.lower()).strip("_") or "own": asdict(weights)},
    }
