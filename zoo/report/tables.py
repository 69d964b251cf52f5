"""Tables as data: published rows from ``zoo/evaluate/published.json``, measured rows from result files.

A measured number stands in a published table only where data set and metric are the same; all measured numbers stand,
beside random init, in a table of their own under it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.datasets.transfer_sets import SETS
from zoo.errors import UserError

PUBLISHED = Path(__file__).parents[1] / "evaluate" / "published.json"
_KEYS = {"protocol", "metric", "score", "interval_95", "data", "model"}
_IMAGENET = {"imagenet", "imagenet-1k", "imagenet1k", "imagenet2012", "in1k", "ilsvrc2012"}  # not ImageNette
_SAME_PROTOCOL = {"seed", "schedule", "mode", "percent", "seeds"}  # options that leave a protocol what it is
_DETECTION = {"VOC07+12": "voc07+12", "VOC07": "voc07", "COCO": "coco 2017"}  # as zoo.evaluate.dense names them


@dataclass(frozen=True)
class Row:
    """One line; ``kind`` is ``published`` or ``measured``; ``source`` a paper's table, or the result's file."""

    kind: str
    cells: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Table:
    """A table with its section's heading."""

    section: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Protocols that belong together, and the published tables of them by id."""

    title: str
    protocols: tuple[str, ...]
    published: tuple[str, ...]


SECTIONS = (
    Section(
        "Linear evaluation",
        ("linear", "linear-sgd", "linear-lars"),
        ("linear-r50", "linear-wide", "simsiam-epochs", "byol-settings", "simsiam-cifar10", "solo-learn-cifar"),
    ),
    Section("kNN", ("knn",), ("lightly-cifar10",)),
    Section("Semi-supervised", ("semi-supervised",), ("semi-supervised-r50", "semi-supervised-wide")),
    Section("Transfer", ("transfer",), ("transfer-linear", "transfer-finetuned")),
    Section(
        "Detection, segmentation, depth", ("detect", "segment", "depth"), ("voc", "nyu-depth", "simsiam-detection")
    ),
    Section(
        "Ablations",
        (),
        (
            "ablation-target",
            "ablation-simclr",
            "ablation-batch-size",
            "ablation-views",
            "ablation-stop-gradient",
            "seed-own",
        ),
    ),
)


def published() -> list[dict[str, Any]]:
    """The published tables, as in the file."""
    tables: list[dict[str, Any]] = json.loads(PUBLISHED.read_text())["tables"]
    return tables


def load_results(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """All result files below ``folders``, each with its ``file``; other JSON files are passed over.

    Raises:
        UserError: a folder is missing or holds no result.
    """
    results: dict[Path, dict[str, Any]] = {}  # by file: a folder may be given beside one that is in it
    for folder in folders:
        if not folder.exists():
            raise UserError(f"no folder {folder}: give one that `zoo evaluate --out` wrote to")
        found = {}
        for path in sorted(folder.rglob("*.json")) if folder.is_dir() else [folder]:
            try:
                value = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(value, dict) and value.keys() >= _KEYS:
                found[path.resolve()] = value | {"file": path.name}
        if not found:
            raise UserError(f"{folder} holds no result of `zoo evaluate`")
        results |= found
    return list(results.values())


def build(results: list[dict[str, Any]]) -> list[Table]:
    """Every published table and every result, in the order of ``SECTIONS``."""
    known = {t["id"]: t for t in published()}
    tables = []
    for section in SECTIONS:
        mine = [r for r in results if r["protocol"] in section.protocols]
        tables += [_published(section, known[i], mine) for i in section.published]
        if mine:
            tables.append(_measured(section, mine))
    return tables


def _published(section: Section, table: Mapping[str, Any], results: list[dict[str, Any]]) -> Table:
    extra = [k for k in ("architecture", "parameters", "batch", "predictor", "target_network") if k in table["rows"][0]]
    rows = []
    for row in table["rows"]:
        spread = row.get("spread") or [None] * len(row["values"])
        values = [_number(v) + (f" ± {s:g}" if s else "") for v, s in zip(row["values"], spread, strict=True)]
        cells = [row["method"], *(str(row.get(k, "")) for k in extra), *values]
        rows.append(Row("published", tuple(cells), row["source"]))
    for model in dict.fromkeys(model_name(r) for r in results):
        of_model = [r for r in results if model_name(r) == model]
        values = [
            next((v for r in of_model if (v := _same(table["id"], c, r)) is not None), "") for c in table["columns"]
        ]
        if any(values):
            files = ", ".join(r["file"] for r in of_model if any(_same(table["id"], c, r) for c in table["columns"]))
            rows.append(Row("measured", (model, *("" for _ in extra), *values), files))
    columns = ("method", *(e.replace("_", " ") for e in extra), *table["columns"])
    return Table(section.title, table["title"], columns, tuple(rows), table.get("note", ""))


def _same(table: str, column: str, result: Mapping[str, Any]) -> str | None:
    """The result's number for a column of a published table; ``None`` where data set or metric is another."""
    name, metrics = str(result["data"]["name"]).lower(), result.get("metrics", {})
    imagenet = name in _IMAGENET
    value: float | None = None
    reduced = str(result["parameters"].get("schedule", "")).startswith("small")
    if reduced or set(result.get("options", {})) - _SAME_PROTOCOL:
        return None  # another protocol than the paper's, whatever the data
    if table == "linear-r50" and imagenet:
        value = result["score"] if column == "top-1" else metrics.get(column)
    elif table == "semi-supervised-r50" and imagenet:
        value = metrics.get(column)
    elif table.startswith("transfer-") and name in SETS and SETS[name].title == column:
        fine_tuned = result["parameters"].get("mode") == "fine-tuned"
        value = result["score"] if fine_tuned == (table == "transfer-finetuned") else None
    elif table == "voc" and name.startswith("voc"):
        value = result["score"] if column == "mIoU" == result["metric"] else None
    elif table == "nyu-depth" and name.startswith("nyu"):
        value = metrics.get(column)
    elif table == "simsiam-detection" and result["protocol"] == "detect":
        data, _, metric = column.partition(" ")
        prefix = next((k for k, data_name in _DETECTION.items() if name == data_name), None)
        value = metrics.get(metric if metric.startswith("mask") else f"box {metric}") if prefix == data else None
    return None if value is None else _number(value)


def _measured(section: Section, results: list[dict[str, Any]]) -> Table:
    rows = []
    for r in sorted(results, key=lambda r: (r["protocol"], _mode(r), r["data"]["name"], is_random(r), model_name(r))):
        low, high = r["interval_95"]
        baseline = next((b for b in results if is_random(b) and _task(b) == _task(r) and _fits(b, r)), None)
        gain = "" if baseline is None or is_random(r) else f"{r['score'] - baseline['score']:+.1f}"
        cells = (
            model_name(r),
            r["protocol"] + _mode(r),
            r["data"]["name"],
            r["metric"],
            f"{r['score']:.2f}",
            f"{low:.1f} to {high:.1f}",
            gain,
        )
        rows.append(Row("measured", cells, r["file"]))
    columns = ("model", "protocol", "data", "metric", "score", "95 % interval", "over random init")
    note = "On these images and at these settings only: not comparable with published numbers on other data."
    return Table(section.title, f"{section.title}: measured with this project", columns, tuple(rows), note)


def _task(result: Mapping[str, Any]) -> tuple[Any, ...]:
    splits = tuple(result["data"].get(s, {}).get("sha256") for s in ("train", "test"))
    return (result["protocol"], _mode(result), result["metric"], result["data"]["name"], splits)


def _fits(baseline: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Whether both were run with the same options and the same network size."""
    same_options = baseline.get("options", {}) == result.get("options", {})
    return bool(same_options and baseline["model"].get("dim") == result["model"].get("dim"))


def _mode(result: Mapping[str, Any]) -> str:
    mode = result["parameters"].get("mode")
    return f", {mode}" if mode else ""


def model_name(result: Mapping[str, Any]) -> str:
    """As tables name it."""
    name = str(result["model"]["name"])
    return f"{name.removesuffix('.random')}, random init" if is_random(result) else name


def is_random(result: Mapping[str, Any]) -> bool:
    """Whether the network had no weights."""
    return str(result["model"]["name"]).endswith(".random")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.2f}" if 0 <= value < 1 or round(value, 1) != value else f"{value:.1f}"
    return text if value >= 1 or value == 0 else f"{value:.3f}".rstrip("0")
