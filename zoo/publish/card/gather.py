"""Facts for a card, gathered from the registry, from JSON of training and evaluation, or from an exported file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.hub.weights import WeightFile
from zoo.models import registry
from zoo.models.registry import ARCHITECTURES, MODELS, Architecture
from zoo.models.state_dict import read_metadata
from zoo.publish.card.facts import Facts

CARDS = Path(__file__).parents[3] / "model_cards"


def results_folder(name: str, tag: str) -> Path:
    """Where the JSON files behind a card stand."""
    return CARDS / "results" / f"{name}.{tag}"


def card_path(name: str) -> Path:
    """Where ``zoo card`` puts the card of ``NAME`` or ``NAME.tag``: the default tag's has the bare name."""
    base, tag = _split(name)
    return CARDS / (f"{base}.md" if tag == MODELS[base].default_tag else f"{base}.{tag}.md")


def registry_facts(name: str) -> Facts:
    """What the registry and the JSON files in ``model_cards/results`` know of ``NAME`` or ``NAME.tag``."""
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
        half=chosen.bundled,  # what ships is small
        training=_read(training) if chosen.bundled else None,
        results=load_results(base, tag),
        published=chosen.scores,
        selection=chosen.selection,
        recipe=spec.recipe if tag == spec.default_tag else "",
        like_these=spec.scores,
        others=[f"{base}.{other}" for other in spec.weights if other != tag],
        hub_name=base,
    )


def file_facts(file: WeightFile) -> Facts:
    """What a file of ``zoo-train export`` says of itself."""
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


def training_of(file: WeightFile) -> dict[str, Any] | None:
    """The training facts that ``zoo-train export`` wrote into its file; ``None`` of other files."""
    if file.folder is not None or file.path is None:
        return None
    found = read_metadata(file.path).get("training")
    training: dict[str, Any] | None = json.loads(found) if found else None
    return training


def hub_name(method: str, architecture: Architecture) -> str | None:
    """An entry of ``hubconf.py`` that takes weights of this method and architecture, ``None`` where there is none."""
    for name, spec in MODELS.items():
        same = ARCHITECTURES[spec.architecture]
        if (spec.method, same.num_features, same.parameters) == (
            method,
            architecture.num_features,
            architecture.parameters,
        ):
            return name
    return None


def load_results(name: str, tag: str) -> list[dict[str, Any]]:
    """All evaluation JSON files behind a card."""
    return read_results(results_folder(name, tag))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All JSON files of ``zoo evaluate`` in a folder."""
    return [_read(p) for p in sorted(folder.glob("*.json")) if p.name != "training.json"]


def _split(name: str) -> tuple[str, str]:
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if tag is None or tag not in spec.weights:
        raise UserError(f"{name} has no card: it has no released weights")
    return spec.name, tag


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
