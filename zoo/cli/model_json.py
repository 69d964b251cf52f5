"""What ``zoo list --json`` and ``zoo info`` tell of the registry's weights, and the scores measured for them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TypedDict

from zoo.cli.model_list import Filters
from zoo.hub import pretrained
from zoo.models.licences import is_non_commercial, permits_commercial_use
from zoo.models.registry import ARCHITECTURES, ModelSpec
from zoo.system.json_reader import fields
from zoo.system.shipped import shipped_folder
from zoo.system.terminal import print_json

RESULTS = shipped_folder("model_cards") / "results"


class MeasuredScore(TypedDict):
    """A score in percent of ``zoo evaluate``, the command that measures it again, and the JSON file it stands in."""

    score: float
    interval_95: list[float]
    what: str
    command: str
    file: str


def print_list_json(filters: Filters) -> None:
    """Print what ``zoo info`` tells, of all models that pass, as JSON; with a licence, of such weights only."""
    specs = {spec.name: spec for spec, _ in filters.models()}
    print_json([_to_json(spec, filters) for spec in specs.values()])


def _to_json(spec: ModelSpec, filters: Filters) -> dict[str, object]:
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
                "by_hand": weights.by_hand or None,
                "trained_on": weights.data,
                "licence": weights.licence,
                "licence_note": weights.licence_note or None,
                "non_commercial": is_non_commercial(weights.licence),
                "commercial_use": permits_commercial_use(weights.licence),  # null: nobody says so
                "source": weights.source,
                "preprocessing": weights.preprocessing.to_json(),
                "padding": weights.padding,
                "note": weights.note or None,
                "published": [asdict(score) for score in weights.scores],
                "measured": measured_scores(spec.name, tag),
            }
            for tag, weights in spec.weights.items()
            if filters.permits(spec, tag)
        ],
    }


def measured_scores(name: str, tag: str) -> list[MeasuredScore]:
    """Read the scores of these weights from ``model_cards/results``; none if that folder was not installed."""
    from zoo.evaluate.result import read_result  # which imports numpy

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
