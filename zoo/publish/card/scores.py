"""Scores of a model: the table, the section, and the forms in which a model hub reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.models.registry import Score
from zoo.publish.card.facts import Facts
from zoo.publish.card.markdown import wrap
from zoo.publish.card.wording import DATA_SETS

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PROTOCOLS = {"knn": "kNN", "linear": "linear"}


def section(facts: Facts) -> str:
    """Published scores, and measured ones beside those of a random network."""
    parts = ["## Evaluation"]
    rows = [f"| {_told(s)} | {s.value:g} | {s.where} |" for s in facts.published]
    rows += [f"| {_told(s)}, of this architecture and method | {s.value:g} | {s.where} |" for s in facts.like_these]
    if rows:
        head = [
            "Published by others (not measured here), in percent:",
            "",
            "| what | score | source |",
            "|---|---:|---|",
        ]
        parts.append("\n".join([*head, *rows]))
    if not facts.results:
        ours = facts.bundled or facts.official
        parts.append("Measured by this project: nothing yet." if ours else _to_measure(facts))
        return "\n\n".join(parts)
    parts.append(
        "Measured by this project, top-1 in percent with 95 % intervals, beside the same network with random weights\n"
        "(Kaiming initialisation, all BN gammas 1)."
    )
    parts.append(table(facts.results))
    parts += [f"{DATA_SETS[d].title} is {DATA_SETS[d].note}." for d in _data_sets(facts.results) if DATA_SETS[d].note]
    if facts.selection:
        parts.append(wrap(facts.selection))
    parts.append(
        wrap(
            "kNN: k and t chosen by leave-one-out on the training images, all of them as the bank. Linear: logistic "
            "regression by L-BFGS on frozen features, l2 chosen on a tenth of the training images."
        )
    )
    if facts.bundled and not facts.repository:
        name = facts.name.partition(".")[0]
        parts.append(
            f"Every row is a JSON file in `results/{facts.name}/`, written by\n\n"
            f"    for protocol in knn linear; do for data in {' '.join(_data_sets(facts.results))}; do "
            f"for model in {name} {name}.random; do\n"
            f"      zoo evaluate $protocol --model $model --data DATA/$data "
            f"--out results/{facts.name}/$protocol.$data.$model.json\n"
            "    done; done; done"
        )
    return "\n\n".join(parts)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per data set, trained against random by protocol."""
    rows = ["| data | " + " | ".join(f"{p} trained | {p} random | gain" for p in PROTOCOLS.values()) + " |"]
    rows.append("|---|" + "---:|" * 3 * len(PROTOCOLS))
    for data in _data_sets(results):
        cells = [DATA_SETS[data].title]
        for protocol in PROTOCOLS:
            trained, random = (_find(results, protocol, data, is_random) for is_random in (False, True))
            gain = trained["score"] - random["score"]
            cells += [_score(trained), _score(random), f"**{gain:+.1f}**"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def eval_results(facts: Facts) -> list[EvalResult]:
    """For the front matter."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-classification",
            task_name="classification on frozen features",
            dataset_type=DATA_SETS[result["data"]["name"]].hub or result["data"]["name"],
            dataset_name=DATA_SETS[result["data"]["name"]].title,
            metric_type="accuracy",
            metric_name=f"{PROTOCOLS.get(result['protocol'], result['protocol'])} top-1, percent",
            metric_value=result["score"],
        )
        for result in _trained(facts.results)
        if result["data"]["name"] in DATA_SETS
    ]


def evaluation_yaml(facts: Facts) -> dict[str, str]:
    """Files of ``.eval_results/`` by name, for the data sets that the hub has: its leaderboards read them."""
    import yaml

    files: dict[str, list[dict[str, Any]]] = {}
    for result in _trained(facts.results):
        data = DATA_SETS.get(result["data"]["name"])
        if data is not None and data.hub:
            entry = {"dataset": {"id": data.hub, "task_id": f"{result['protocol']}_top1"}, "value": result["score"]}
            notes = f"{result['protocol']} on frozen features, top-1 in percent; siamese-zoo"
            files.setdefault(f"{result['data']['name']}.yaml", []).append(entry | {"notes": notes})
    return {name: yaml.safe_dump(entries, sort_keys=False) for name, entries in files.items()}


def _to_measure(facts: Facts) -> str:
    command = f"zoo evaluate knn --model {facts.reference} --data DATA --out RESULTS/knn.json"
    return f"Not measured yet: `{command}`, or another protocol."


def _told(score: Score) -> str:
    return score.protocol if score.verified else f"{score.protocol} (remembered, not looked up)"


def _trained(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [r for r in results if not r["model"]["model"].endswith(".random")]


def _data_sets(results: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {r["data"]["name"] for r in results}
    return [name for name in DATA_SETS if name in found]


def _find(results: Sequence[Mapping[str, Any]], protocol: str, data: str, is_random: bool) -> Mapping[str, Any]:
    for result in results:
        model = result["model"]["model"]
        if (result["protocol"], result["data"]["name"], model.endswith(".random")) == (protocol, data, is_random):
            return result
    which = "random" if is_random else "trained"
    raise UserError(f"no result of {protocol} on {data} for the {which} network: run `zoo evaluate` first")


def _score(result: Mapping[str, Any]) -> str:
    low, high = result["interval_95"]
    return f"{result['score']:.1f} ({low:.1f}-{high:.1f})"
