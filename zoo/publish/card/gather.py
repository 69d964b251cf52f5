"""Gather the facts for a card from the registry, from JSON of training and evaluation, or from an exported file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.errors import UserError, reason_of
from zoo.hub.weights import WeightFile
from zoo.models import registry
from zoo.models.registry import ARCHITECTURES, MODELS, Architecture
from zoo.models.state_dict import read_metadata
from zoo.publish.card.facts import EvaluationResult, Facts, TrainingRecord

CARDS = Path(__file__).parents[3] / "model_cards"


def results_folder(name: str, tag: str) -> Path:
    """Return the folder of the JSON files behind a card."""
    return CARDS / "results" / f"{name}.{tag}"


def card_path(name: str) -> Path:
    """Return the file to which ``zoo card`` writes ``NAME`` or ``NAME.tag``; the default tag's has the bare name."""
    base, tag = _split(name)
    return CARDS / (f"{base}.md" if tag == MODELS[base].default_tag else f"{base}.{tag}.md")


def registry_facts(name: str) -> Facts:
    """Gather facts about ``NAME`` or ``NAME.tag`` from the registry and the JSON files in ``model_cards/results``.

    Raises:
        UserError: there is no such model, it has no weights, or a JSON file cannot be read.
    """
    base, tag = _split(name)
    spec, chosen = MODELS[base], MODELS[base].weights[tag]
    training = results_folder(base, tag) / "training.json"
    return Facts(
        f"{base}.{tag}",
        spec.method,
        replace(ARCHITECTURES[spec.architecture], padding=chosen.padding),
        chosen.preprocessing,
        chosen.licence,
        chosen.source,
        chosen.sha256,
        chosen.location,
        half=chosen.bundled,  # bundled files are small
        training=_read(training) if chosen.bundled else None,
        results=load_results(base, tag),
        published=chosen.scores,
        selection=chosen.selection,
        recipe=spec.recipe if tag == spec.default_tag else "",
        like_these=spec.scores,
        others=[f"{base}.{other}" for other in spec.weights if other != tag],
        hub_name=base,
        note=chosen.note,
        hash_prefix=chosen.hash_prefix,
        licence_note=chosen.licence_note,
        other_link=chosen.other_link,
    )


def file_facts(file: WeightFile) -> Facts:
    """Gather facts about a file of ``zoo-train export`` from its metadata."""
    assert file.path is not None
    return Facts(
        file.name,
        file.method,
        file.architecture,
        file.preprocessing,
        file.licence,
        file.source,
        file.sha256,
        file.path.name,
        training=training_of(file),
        hub_name=hub_name(file.method, file.architecture),
    )


def training_of(file: WeightFile) -> TrainingRecord | None:
    """Return the training facts in a file of ``zoo-train export``; ``None`` for other files."""
    if file.folder is not None or file.path is None:
        return None
    found = read_metadata(file.path).get("training")
    training: TrainingRecord | None = json.loads(found) if found else None
    return training


def hub_name(method: str, architecture: Architecture) -> str | None:
    """Return an entry of ``hubconf.py`` with this method and architecture; ``None`` where there is none."""
    for name, spec in MODELS.items():
        same = ARCHITECTURES[spec.architecture]
        if (spec.method, same.num_features, same.parameters) == (
            method,
            architecture.num_features,
            architecture.parameters,
        ):
            return name
    return None


def load_results(name: str, tag: str) -> list[EvaluationResult]:
    """Read all evaluation JSON files behind a card."""
    return read_results(results_folder(name, tag))


def read_results(folder: Path) -> list[EvaluationResult]:
    """Read all JSON files of ``zoo evaluate`` in a folder.

    Raises:
        UserError: a file cannot be read.
    """
    return [_read(p) for p in sorted(folder.glob("*.json")) if p.name != "training.json"]


def _split(name: str) -> tuple[str, str]:
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if tag is None or tag not in spec.weights:
        raise UserError(f"{name} has no card: it has no released weights")
    return spec.name, tag


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason_of(error)}") from None
