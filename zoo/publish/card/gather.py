"""Gather the facts for a card from the registry, from JSON of training and evaluation, or from an exported file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import cast

from zoo.errors import UserError, reason_of
from zoo.evaluate.result import read_result
from zoo.hub.weights import WeightFile
from zoo.models import registry
from zoo.models.registry import ARCHITECTURES, MODELS, Architecture
from zoo.models.state_dict import read_metadata
from zoo.publish.card.facts import EvaluationResult, Facts, TrainingRecord
from zoo.publish.card.scores import PROTOCOLS
from zoo.system.json_reader import BadJson, fields, number, parse_json, read_json, text, whole
from zoo.system.shipped import shipped_folder

CARDS = shipped_folder("model_cards")


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
    folder = results_folder(base, tag)
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
        training=_training(folder / "training.json") if chosen.bundled else None,
        earlier=[_training(path) for path in sorted((folder / "earlier").glob("*.json"))],
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
        trained_on=chosen.data,
        by_hand=chosen.by_hand,
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
    try:
        return check_training(parse_json(found)) if found else None
    except BadJson as error:
        raise UserError(f"{file.path} has no readable record of its training ({error}): export it again") from None


def hub_name(method: str, architecture: Architecture) -> str | None:
    """Return an entry of ``hubconf.py`` with this method and architecture; ``None`` where there is none."""
    for name, spec in MODELS.items():
        same = ARCHITECTURES[spec.architecture]
        plain = architecture.variant(stem=same.stem, padding=same.padding, project_first=same.project_first)
        if (spec.method, same.num_features, same.parameters) == (method, plain.num_features, plain.parameters):
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
    return [_result(p) for p in sorted(folder.glob("*.json")) if p.name != "training.json"]


def results_of(folder: Path, architecture: Architecture, hashes: Collection[str]) -> list[EvaluationResult]:
    """Read the JSON files of ``zoo evaluate`` in a folder, which must be of one model.

    Args:
        architecture: of the model; a result of random weights must have its size.
        hashes: sha256 of the model's weights, in each form that can be evaluated.

    Raises:
        UserError: a file cannot be read, or is of other weights, of reduced precision, or of kNN or linear evaluation
            with other options: a card would tell it as the model's score.
    """
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != "training.json"]
    found = [_result(path) for path in paths]
    for path, result in zip(paths, found, strict=True):
        if why := _why_not(result, architecture, hashes):
            raise UserError(f"{path} {why}: evaluate the model that is published, or remove the file")
    return found


def _why_not(result: EvaluationResult, architecture: Architecture, hashes: Collection[str]) -> str:
    """Say why a result is none of the model that a card describes; empty where it is."""
    model = result["model"]
    dim, parameters = architecture.num_features, architecture.parameters
    if (model.get("dim", dim), model.get("parameters", parameters)) != (dim, parameters):
        return "is of a network of another size"
    sha256 = model.get("weights_sha256")
    if sha256 not in hashes and not (sha256 is None and model["model"].endswith(".random")):
        return "is of other weights"
    if (precision := model.get("precision", "fp32")) != "fp32":
        return f"was measured in {precision}"
    changed = sorted(set(result.get("options", {})) - {"seed"})
    if changed and result["protocol"] in PROTOCOLS:
        return f"was measured with --set {changed[0]}, which the card does not say"
    return ""


def _split(name: str) -> tuple[str, str]:
    spec = registry.find(name)
    tag = registry.split_name(name)[1] or spec.default_tag
    if tag is None or tag not in spec.weights:
        why = f"its tags: {', '.join(spec.weights)}" if spec.weights else "it has no released weights"
        raise UserError(f"{name} has no card: {why}")
    return spec.name, tag


def _result(path: Path) -> EvaluationResult:
    result = read_result(path)
    try:
        text(fields(result["model"], "model")["model"])
    except BadJson as error:
        raise UserError(f"{path} does not name its model ({error}): evaluate again, or remove it") from None
    return cast(EvaluationResult, result)


def _training(path: Path) -> TrainingRecord:
    try:
        return check_training(read_json(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error)}") from None
    except BadJson as error:
        raise UserError(f"{path} is no summary of a run ({error}): run `zoo-train summary` again") from None


def check_training(value: object) -> TrainingRecord:
    """Check the record of a training run as ``zoo-train`` writes it. BadJson: it is none."""
    record = fields(value, "recipe", "data", "steps", "total_steps", "images_seen", "minutes", "hardware")
    recipe = fields(record["recipe"], "name", "seed", "optim", "views")
    optim = fields(recipe["optim"], "name", "lr", "batch_size", "weight_decay", "tau")
    data = fields(record["data"], "images")
    for name in (recipe["name"], optim["name"], record["hardware"], data.get("name", "")):
        text(name)
    text(recipe.get("precision", ""))
    for size in (recipe["seed"], record["steps"], record["total_steps"], record["images_seen"]):
        whole(size)
    for size in (optim["batch_size"], fields(recipe["views"], "size")["size"], data["images"]):
        whole(size, 1)
    for amount in (optim["lr"], optim["weight_decay"], optim["tau"], record["minutes"]):
        number(amount, 0)
    if "init" in record:
        init = fields(record["init"], "weights", "sha256")
        text(init["weights"])
        text(init["sha256"] or "")
    for version in fields(record.get("versions", {})).values():
        text(version)
    return cast(TrainingRecord, record)
