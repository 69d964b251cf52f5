"""The scores of a model: the section and its table, and the forms in which a model hub reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.models.registry import Score
from zoo.publish.card.facts import EvaluationResult, Facts
from zoo.publish.card.markdown import wrap
from zoo.publish.card.wording import DATA_SETS

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PROTOCOLS = {"knn": "kNN", "linear": "linear"}
TOP_1 = "top-1"


def section(facts: Facts) -> str:
    """Return published scores, and measured ones beside those of a random network."""
    parts = ["## Evaluation", *_published(facts)]
    if facts.results:
        parts += _measured(facts)
    else:
        registered = facts.bundled or facts.official
        parts.append(_not_measured(facts) if registered else _to_measure(facts))
    return "\n\n".join(parts)


def _published(facts: Facts) -> list[str]:
    rows = [f"| {_protocol(s)} | {s.text} | {s.where} |" for s in facts.published]
    rows += [f"| {_protocol(s)}, of this architecture and method | {s.text} | {s.where} |" for s in facts.like_these]
    if not rows:
        return []
    header = [
        "Published by others (not measured here), in percent:",
        "",
        "| what | score | source |",
        "|---|---:|---|",
    ]
    return ["\n".join([*header, *rows])]


def _measured(facts: Facts) -> list[str]:
    # The table, and what it is measured against.
    parts = [
        "Measured by this project, top-1 in percent with 95 % intervals, beside the same network with random weights\n"
        "(Kaiming initialisation, all BN gammas 1).",
        table(facts.results),
    ]
    parts += [f"{DATA_SETS[d].title} is {DATA_SETS[d].note}." for d in _data_sets(facts.results) if DATA_SETS[d].note]
    if facts.selection:
        parts.append(wrap(facts.selection))
    # How each protocol was run.
    parts.append(
        wrap(
            "kNN: k and t chosen by leave-one-out on the training images, all of them as the bank. Linear: logistic "
            "regression by L-BFGS on frozen features, l2 chosen on a tenth of the training images."
        )
    )
    # How to measure it again.
    if facts.bundled and not facts.repository and not facts.recipe:
        parts.append(
            f"Every row is a JSON file in `results/{facts.name}/`, which has its command, from the time when these\n"
            "weights were the default of this name."
        )
    elif facts.bundled and not facts.repository:
        name = facts.name.partition(".")[0]
        parts.append(
            f"Every row is a JSON file in `results/{facts.name}/`, written by\n\n"
            f"    for protocol in knn linear; do for data in {' '.join(_data_sets(facts.results))}; do "
            f"for model in {name} {name}.random; do\n"
            f"      zoo evaluate $protocol --model $model --data DATA/$data "
            f"--out results/{facts.name}/$protocol.$data.$model.json\n"
            "    done; done; done"
        )
    return parts


def table(results: Sequence[EvaluationResult]) -> str:
    """Return a Markdown table: a row per data set, trained weights against random ones by protocol.

    Raises:
        UserError: a result is missing.
    """
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
    """Return the trained weights' results for the front matter."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-classification",
            task_name="classification on frozen features",
            dataset_type=DATA_SETS[result["data"]["name"]].hub or result["data"]["name"],
            dataset_name=DATA_SETS[result["data"]["name"]].title,
            metric_type="accuracy",
            metric_name=f"{PROTOCOLS.get(result['protocol'], result['protocol'])} {result['metric']}, percent",
            metric_value=result["score"],
        )
        for result in _trained(facts.results)
        if result["data"]["name"] in DATA_SETS
    ]


def evaluation_yaml(facts: Facts) -> dict[str, str]:
    """Return the files of ``.eval_results/`` by name, which the hub's leaderboards read; only for data sets on the hub."""
    import yaml

    files: dict[str, list[dict[str, object]]] = {}
    # Only data sets that the hub knows can have an entry.
    for result in _trained(facts.results):
        data = DATA_SETS.get(result["data"]["name"])
        if data is not None and data.hub and result["metric"] == TOP_1:
            entry = {
                "dataset": {"id": data.hub, "task_id": f"{result['protocol']}_top1"},
                "value": result["score"],
                "notes": f"{result['protocol']} on frozen features, top-1 in percent; siamese-zoo",
            }
            files.setdefault(f"{result['data']['name']}.yaml", []).append(entry)
    return {name: yaml.safe_dump(entries, sort_keys=False) for name, entries in files.items()}


def _not_measured(facts: Facts) -> str:
    """Return the command that measures what the publications give, with labelled images of the reader's."""
    text = (
        "Measured by this project: nothing yet. With ImageNet in `DATA/train` and `DATA/val`, a folder per class, this "
        "measures the linear score; `knn` in the place of `linear-sgd` needs no training:"
    )
    command = f"    zoo evaluate linear-sgd --model {facts.reference} --data DATA --out linear.json"
    return f"{wrap(text)}\n\n{command}"


def _to_measure(facts: Facts) -> str:
    command = f"zoo evaluate knn --model {facts.reference} --data DATA --out RESULTS/knn.json"
    return f"Not measured yet: `{command}`, or another protocol."


def _protocol(score: Score) -> str:
    return score.protocol if score.verified else f"{score.protocol} (remembered, not looked up)"


def _trained(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    return [r for r in results if not r["model"]["model"].endswith(".random")]


def _data_sets(results: Sequence[EvaluationResult]) -> list[str]:
    found = {r["data"]["name"] for r in results}
    return [name for name in DATA_SETS if name in found]


def _find(results: Sequence[EvaluationResult], protocol: str, data: str, is_random: bool) -> EvaluationResult:
    wanted = protocol, data, is_random
    found = [
        result
        for result in results
        if (result["protocol"], result["data"]["name"], result["model"]["model"].endswith(".random")) == wanted
    ]
    which = "random" if is_random else "trained"
    if len(found) > 1:
        raise UserError(f"{len(found)} results of {protocol} on {data} for the {which} network: keep one of the files")
    if not found:
        raise UserError(f"no result of {protocol} on {data} for the {which} network: run `zoo evaluate` first")
    return found[0]


def _score(result: EvaluationResult) -> str:
    low, high = result["interval_95"]
    return f"{result['score']:.1f} ({low:.1f}-{high:.1f})"
