"""Printed output of ``zoo list`` and ``zoo info``: the registry, and the scores measured for its weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

from zoo.evaluate.result import read_result
from zoo.hub import pretrained
from zoo.models import registry
from zoo.models.licences import is_non_commercial
from zoo.models.registry import ARCHITECTURES, DEFAULT_MODEL, ModelSpec, Score, Weights
from zoo.system.json_reader import fields
from zoo.system.terminal import print_json, print_line

RESULTS = Path(__file__).parents[2] / "model_cards" / "results"


class MeasuredScore(TypedDict):
    """A score in percent of ``zoo evaluate``, the command that measures it again, and the JSON file it stands in."""

    score: float
    interval_95: list[float]
    what: str
    command: str
    file: str


def print_list() -> None:
    """Print a table of all models."""
    from rich.console import Console
    from rich.table import Table

    # Minimum widths keep names and numbers whole on a narrow terminal.
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", min_width=max(map(len, registry.MODELS)), no_wrap=True)
    table.add_column("dim", justify="right", min_width=4, no_wrap=True)
    table.add_column("params", justify="right", min_width=7, no_wrap=True)
    table.add_column("weights", overflow="fold")
    for spec in registry.MODELS.values():
        architecture = ARCHITECTURES[spec.architecture]
        table.add_row(
            spec.name, str(architecture.num_features), f"{architecture.parameters / 1e6:.1f} M", _weights_summary(spec)
        )
    Console().print(table)
    print_line("")
    print_line(f"default of `zoo extract`: {DEFAULT_MODEL}; details: `zoo info NAME`")


def print_info(name: str) -> None:
    """Print everything that is known of one model; ``name`` is ``NAME`` or ``NAME.tag``. UserError: no such model."""
    from zoo.publish.card.gather import card_path

    spec = registry.find(name)
    architecture = ARCHITECTURES[spec.architecture]
    # Describe the model itself, whatever its weights.
    print_line(f"{spec.name}: {spec.method}, {spec.architecture}")
    print_line(f"  network    timm {architecture.timm_name} {dict(architecture.model_args) or ''}".rstrip())
    print_line(f"  embedding  {architecture.num_features} numbers, {architecture.parameters / 1e6:.3f} M parameters")
    for score in spec.scores:
        print_line(f"  published  {_published(score)}")
    for tag, weights in spec.weights.items():
        transform = weights.preprocessing
        print_line(f"  weights    {spec.name}.{tag}{' (default)' if tag == spec.default_tag else ''}")
        print_line(f"    file      {weights.location}")
        print_line(f"    sha256    {_sha256(weights)}")
        # Weights inside the package have no publisher's hash.
        if not weights.bundled:
            print_line(f"    published hash  {_published_hash(weights)}")
        if weights.other_link:
            print_line(f"    also at   {weights.other_link}")
        print_line(f"    here      {_local_path(spec, tag)}")
        print_line(f"    licence   {weights.licence}{commercial_use(weights.licence)}; source: {weights.source}")
        if weights.licence_note:
            print_line(f"              {weights.licence_note}")
        print_line(f"    pixels    {transform.summary}, mean {transform.mean}, std {transform.std}")
        print_line(f"    padding   {weights.padding}")
        if weights.note:
            print_line(f"    note      {weights.note}")
        for score in weights.scores:
            print_line(f"    published {_published(score)}")
        for result in measured_scores(spec.name, tag):
            print_line(f"    measured  {result['score']:.2f} % {result['what']} ({result['command']})")
        print_line(f"    card      model_cards/{card_path(f'{spec.name}.{tag}').name}")
    # Without weights, the recipe is the way to the model.
    if not spec.weights:
        print_line("  weights    none released")
    if spec.recipe:
        print_line(f"  train      zoo-train run {spec.recipe} --data DATA --out RUN")


def print_list_json() -> None:
    """Print what ``zoo info`` tells, of all models, as JSON."""
    print_json([_to_json(spec) for spec in registry.MODELS.values()])


def _to_json(spec: ModelSpec) -> dict[str, object]:
    architecture = ARCHITECTURES[spec.architecture]
    return {
        "name": spec.name,
        "method": spec.method,
        "architecture": {
            "name": spec.architecture,
            **asdict(architecture),
            "model_args": dict(architecture.model_args),
        },
        "recipe": spec.recipe or None,
        "default_tag": spec.default_tag,
        "published": [asdict(score) for score in spec.scores],
        "weights": [
            {
                "tag": tag,
                "location": weights.location,
                "sha256": weights.sha256,
                # The first download records a hash where the publisher gave none.
                "sha256_on_first_use": None if weights.bundled or weights.sha256 else pretrained.recorded_hash(weights),
                "hash_prefix": asdict(weights.hash_prefix) if weights.hash_prefix else None,
                "other_link": weights.other_link or None,
                "licence": weights.licence,
                "licence_note": weights.licence_note or None,
                "non_commercial": is_non_commercial(weights.licence),
                "source": weights.source,
                "preprocessing": weights.preprocessing.to_json(),
                "padding": weights.padding,
                "note": weights.note or None,
                "published": [asdict(score) for score in weights.scores],
                "measured": measured_scores(spec.name, tag),
            }
            for tag, weights in spec.weights.items()
        ],
    }


def measured_scores(name: str, tag: str) -> list[MeasuredScore]:
    """Read the scores of these weights from ``model_cards/results``; none if that folder was not installed."""
    scores: list[MeasuredScore] = []
    for path in sorted((RESULTS / f"{name}.{tag}").glob("*.json")):
        if path.name == "training.json":
            continue
        result = read_result(path)
        if fields(result["model"]).get("model") != f"{name}.{tag}":  # random weights
            continue
        protocol, data = result["protocol"], result["data"]["name"]
        # The command lets a reader repeat the measurement.
        scores.append(
            {
                "score": result["score"],
                "interval_95": list(result["interval_95"]),
                "what": f"{protocol} {result['metric']} on {data}",
                "command": f"zoo evaluate {protocol} --model {name}.{tag} --data {data}",
                "file": f"model_cards/results/{name}.{tag}/{path.name}",
            }
        )
    return scores


def commercial_use(licence: str) -> str:
    """Return a note in brackets if the licence forbids commercial use, else an empty string."""
    return " (not for commercial use)" if is_non_commercial(licence) else ""


def _published(score: Score) -> str:
    return f"{score.text} % {score.protocol} ({score.where}{'' if score.verified else '; not verified'})"


def _sha256(weights: Weights) -> str:
    if weights.sha256:
        return weights.sha256
    recorded = pretrained.recorded_hash(weights)
    return f"{recorded} (as on first use here, not verified)" if recorded else "not verified yet, recorded on first use"


def _published_hash(weights: Weights) -> str:
    prefix = weights.hash_prefix
    if prefix is None:
        return "none by its authors"
    return f"{prefix.algorithm} {prefix.digits}... ({prefix.where}), verified at every download"


def _local_path(spec: ModelSpec, tag: str) -> str:
    if spec.weights[tag].bundled:
        return "ships with the package"
    folder = pretrained.cached(spec, tag)
    return str(folder) if folder.is_dir() else f"not yet: `zoo fetch {spec.name}.{tag}`, or loading it"


def _weights_summary(spec: ModelSpec) -> str:
    if not spec.weights:
        return "none released"
    tags = [f"{tag} (ships)" if w.bundled else f"{tag} ({w.licence})" for tag, w in spec.weights.items()]
    return ", ".join(tags[:2]) + (f" and {len(tags) - 2} more" if len(tags) > 2 else "")
