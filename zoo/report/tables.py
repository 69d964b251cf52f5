"""Tables as data: published rows from ``zoo/evaluate/published.json``, measured rows from result files.

A measured number is shown in a published table only if data set, metric, protocol and architecture are the same. A
table of its own under it shows every measured number beside random init.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from zoo.datasets.transfer_sets import TRANSFER_SETS
from zoo.errors import UserError
from zoo.evaluate.result import RESULT_KEYS, EvaluationJson, check_result
from zoo.models.registry import ARCHITECTURES, MODELS, split_name
from zoo.system.json_reader import BadJson, read_json

_PUBLISHED = Path(__file__).parents[1] / "evaluate" / "published.json"
_HEAD = 1 << 20  # bytes
_SETTINGS = (  # keys of rows that become columns
    "architecture",
    "parameters",
    "batch",
    "negative_pairs",
    "momentum_encoder",
    "predictor",
    "target_network",
)
_IMAGENET = {"imagenet", "imagenet-1k", "imagenet1k", "imagenet2012", "in1k", "ilsvrc2012"}  # not ImageNette
# Options that do not change the protocol. The papers choose on held-out images, and [S] searches the fine-tuning rate.
_SAME_PROTOCOL = {"seed", "schedule", "mode", "percent", "seeds", "held_out", "lrs", "trials"}
_R50 = "ResNet-50 (1x)"
_PAPER_NAMES = {  # key of ARCHITECTURES -> the name that [B] gives it
    "r50": _R50,
    "r50x2": "ResNet-50 (2x)",
    "r50x4": "ResNet-50 (4x)",
    "r200": "ResNet-200 (1x)",
    "r200x2": "ResNet-200 (2x)",
}
_PUBLISHED_LISTS = "published lists"  # of ``parameters["labels"]``: the file lists of SimCLR, which [B] used too
_DETECTION = {"VOC07+12": "voc07+12", "VOC07": "voc07", "COCO": "coco 2017"}  # column -> name of the data in lower case
# Classes and test images of the published data, whatever a user's folder is called: a part of them is other data.
# ILSVRC2012's validation images; VOC2007's test images (its devkit) and COCO's val2017; VOC2012's list "val" of
# segmentation; NYU v2's official test frames.
_IMAGENET_SIZES = 1000, 50_000
_TEST_IMAGES = {"voc07+12": 4952, "voc07": 4952, "coco 2017": 5000, "voc2012": 1449, "nyuv2": 654}
_RULES_OF_FOLDERS = ("as given", "a fifth of each class")  # how the splits of a folder or file begin


class PublishedRow(TypedDict):
    """One row of a published table; settings such as ``architecture`` or ``batch`` may stand beside these keys.

    ``values`` has a float per column, or ``None`` where the paper gives none; ``spread`` has the +- of each.
    """

    method: str
    values: list[Any]
    source: str
    spread: NotRequired[list[float | None]]


class PublishedTable(TypedDict):
    """One table of ``published.json``; ``protocol`` has the protocols of ``zoo evaluate`` that may fill it."""

    id: str
    title: str
    protocol: str
    columns: list[str]
    rows: list[PublishedRow]
    note: NotRequired[str]


@dataclass(frozen=True)
class TableRow:
    """One row; ``kind`` is ``published`` or ``measured``, ``source`` a paper's table or the name of a result file."""

    kind: str
    cells: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Table:
    """A table and the heading of its section."""

    section: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Protocols that belong together, and the ids of their published tables."""

    title: str
    protocols: tuple[str, ...]
    published: tuple[str, ...]


SECTIONS = (
    Section(
        "Linear evaluation",
        ("linear", "linear-sgd", "linear-lars", "linear-moco"),
        (
            "linear-r50",
            "linear-wide",
            "byol-linear-variants",
            "simsiam-epochs",
            "byol-settings",
            "simsiam-cifar10",
            "solo-learn-cifar",
        ),
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


def published() -> list[PublishedTable]:
    """Return the tables of ``published.json``."""
    tables: list[PublishedTable] = json.loads(_PUBLISHED.read_text())["tables"]
    return tables


def load_results(folders: Iterable[Path]) -> list[EvaluationJson]:
    """Return all result files below ``folders``, each with its ``file``; other JSON files are ignored.

    Raises:
        UserError: a folder is missing or holds no result.
    """
    results: dict[Path, EvaluationJson] = {}  # by path: a folder may be given beside one that contains it
    for folder in folders:
        if not folder.exists():
            raise UserError(f"no folder {folder}: give one that `zoo evaluate --out` wrote to")
        found: dict[Path, EvaluationJson] = {}
        for path in sorted(folder.rglob("*.json")) if folder.is_dir() else [folder]:
            # Other JSON files, and files that are no JSON, may lie in the same folder.
            try:
                value = read_json(path, nan=True)
            except OSError:
                continue
            except BadJson as error:
                if _claims_to_be_a_result(path):
                    raise _no_result(path, error) from None
                continue
            if isinstance(value, dict) and value.keys() >= RESULT_KEYS:
                found[path.resolve()] = _checked(value, path)
        if not found:
            raise UserError(f"{folder} holds no result of `zoo evaluate`")
        results |= found
    return list(results.values())


def _checked(value: object, path: Path) -> EvaluationJson:
    try:
        return {**check_result(value), "file": path.name}
    except BadJson as error:
        raise _no_result(path, error) from None


def _claims_to_be_a_result(path: Path) -> bool:
    """Return whether the beginning of a file that cannot be parsed has the keys of a result."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return b'"protocol"' in head and b'"interval_95"' in head


def _no_result(path: Path, error: BadJson) -> UserError:
    return UserError(f"{path} is no result of `zoo evaluate` ({error}): evaluate again, or remove it")


def build(results: Sequence[EvaluationJson]) -> list[Table]:
    """Return every published table and every result, in the order of ``SECTIONS``."""
    known = {t["id"]: t for t in published()}
    tables = []
    for section in SECTIONS:
        # Published tables come first, with the rows that may stand beside them.
        measured = [r for r in results if r["protocol"] in section.protocols]
        for i in section.published:
            tables.append(_published_table(section, known[i], [r for r in measured if not _drew_its_labels(r)]))
            drawn = _published_table(section, known[i], [r for r in measured if _drew_its_labels(r)])
            # Results on drawn labels get a table of their own.
            if rows := tuple(row for row in drawn.rows if row.kind == "measured"):
                title = f"{drawn.title}: labels drawn by this project"
                note = (
                    "Not comparable with the published table above, whose labels are those of the published file lists."
                )
                tables.append(replace(drawn, title=title, rows=rows, note=note))
        # All results of the section follow.
        if measured:
            tables.append(_measured_table(section, measured))
    return tables


def _published_table(section: Section, table: PublishedTable, results: Sequence[EvaluationJson]) -> Table:
    """Return a published table, with a row for each model that has a number it may show (``_comparable``)."""
    extra = [k for k in _SETTINGS if k in table["rows"][0]]
    rows = []
    for row in table["rows"]:
        spread = row.get("spread") or [None] * len(row["values"])
        values = [_format(v) + (f" ± {s:g}" if s else "") for v, s in zip(row["values"], spread, strict=True)]
        cells = [row["method"], *(str(row.get(k, "")) for k in extra), *values]
        rows.append(TableRow("published", tuple(cells), row["source"]))

    # Each model adds one row, if it has a comparable number.
    for model in dict.fromkeys(model_name(r) for r in results):
        of_model = [r for r in results if model_name(r) == model]
        numbers = [[_comparable(table, column, r) for column in table["columns"]] for r in of_model]
        files = [r["file"] for r, row in zip(of_model, numbers, strict=True) if any(v is not None for v in row)]
        if files:  # each column takes the first result that has a number for it
            values = [next((_format(v) for v in column if v is not None), "") for column in zip(*numbers, strict=True)]
            names = [architecture(of_model[0]) or "" if k == "architecture" else "" for k in extra]
            rows.append(TableRow("measured", (model, *names, *values), ", ".join(files)))
    columns = ("method", *(e.replace("_", " ") for e in extra), *table["columns"])
    return Table(section.title, table["title"], columns, tuple(rows), table.get("note", ""))


def _comparable(table: PublishedTable, column: str, result: EvaluationJson) -> float | None:
    """Return the result's number for a column of a published table.

    ``None`` where data, metric, protocol or architecture differ, or where a published setting was changed.
    """
    # Protocol and grid must be those of the paper.
    name, parameters, network = result["data"]["name"].lower(), result["parameters"], architecture(result)
    if result["protocol"] not in table["protocol"].split(", "):
        return None
    grid = parameters.get("grid")
    small = str(parameters.get("schedule", "")).startswith("small") or (
        isinstance(grid, dict) and grid["name"] == "small"
    )
    if small or set(result.get("options", {})) - _SAME_PROTOCOL:
        return None  # not the paper's protocol, whatever the data
    if network is None or (network == _R50) == table["id"].endswith("-wide"):
        return None  # all tables but the two wide ones are of ResNet-50
    if not _is_whole(result, name):
        return None
    return _number(table["id"], column, result, name)


def _is_whole(result: EvaluationJson, name: str) -> bool:
    """Return False where the sizes that a result states show a part of the published data, or other data of its name.

    A result without sizes, as version 0.2 did not write them all, is believed.
    """
    classes, images = _IMAGENET_SIZES if name in _IMAGENET else (None, _TEST_IMAGES.get(name))
    data = result["data"]
    found = data.get("classes", classes), data.get("test", {}).get("images", images)
    return (classes is None or found[0] == classes) and (images is None or found[1] == images)


def _number(table: str, column: str, result: EvaluationJson, name: str) -> float | None:
    """Return the number of a column from a result of the table's protocol and architecture, on data ``name``."""
    metrics = result.get("metrics", {})
    if table in ("linear-r50", "linear-wide") and name in _IMAGENET:
        return result["score"] if column == "top-1" else metrics.get(column)
    if table == "simsiam-epochs" and name in _IMAGENET:
        epochs = re.search(r"(?:^|_)(\d+)ep(?:_|$)", result["model"]["name"].rpartition(".")[2])
        return result["score"] if epochs and column == f"{epochs[1]} ep" else None
    if table.startswith("semi-supervised-") and name in _IMAGENET:
        return metrics.get(column)
    if table.startswith("transfer-") and name in TRANSFER_SETS and TRANSFER_SETS[name].title == column:
        fine_tuned = result["parameters"].get("mode") == "fine-tuned"
        of_a_folder = str(result["parameters"].get("split", "")).startswith(_RULES_OF_FOLDERS)
        same = result["metric"] == TRANSFER_SETS[name].metric and not of_a_folder
        return result["score"] if same and fine_tuned == (table == "transfer-finetuned") else None
    if table == "voc" and name == "voc2012":
        return result["score"] if column == "mIoU" == result["metric"] else None
    if table == "nyu-depth" and name == "nyuv2":
        return metrics.get(column)
    if table == "simsiam-detection":
        data, _, metric = column.partition(" ")
        known = next((k for k, data_name in _DETECTION.items() if name == data_name), None)
        return metrics.get(metric if metric.startswith("mask") else f"box {metric}") if known == data else None
    return None


def _drew_its_labels(result: EvaluationJson) -> bool:
    """True for a semi-supervised result whose labelled images are not those of the published file lists."""
    return result["protocol"] == "semi-supervised" and result["parameters"].get("labels") != _PUBLISHED_LISTS


def architecture(result: EvaluationJson) -> str | None:
    """Return the architecture's name in the papers, by the registry or by its size; ``None`` if unknown."""
    model = result["model"]
    spec = MODELS.get(split_name(model["name"])[0])
    if spec is not None:
        return _PAPER_NAMES.get(spec.architecture)
    size = (model.get("dim"), model.get("parameters"))
    found = (key for key, known in ARCHITECTURES.items() if (known.num_features, known.parameters) == size)
    return _PAPER_NAMES.get(next(found, ""))


def _measured_table(section: Section, results: Sequence[EvaluationJson]) -> Table:
    """Return a table of all results, with their gain over random init of the same task."""
    rows = []
    for r in sorted(results, key=lambda r: (r["protocol"], _mode(r), r["data"]["name"], is_random(r), model_name(r))):
        # The gain compares with random weights on the same task.
        low, high = r["interval_95"]
        baseline = next((b for b in results if is_random(b) and _task(b) == _task(r)), None)
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
        rows.append(TableRow("measured", cells, r["file"]))
    columns = ("model", "protocol", "data", "metric", "score", "95 % interval", "over random init")
    note = "On these images and at these settings only: not comparable with published numbers on other data."
    return Table(section.title, f"{section.title}: measured with this project", columns, tuple(rows), note)


def _task(result: EvaluationJson) -> tuple[object, ...]:
    """Return everything that two results must share to be compared: protocol, data, options and network size."""
    data = result["data"]
    return (
        result["protocol"],
        _mode(result),
        result["metric"],
        data["name"],
        data.get("train", {}).get("sha256"),
        data.get("test", {}).get("sha256"),
        result.get("options", {}),
        result["model"].get("dim"),
    )


def _mode(result: EvaluationJson) -> str:
    mode = result["parameters"].get("mode")
    return f", {mode}" if mode else ""


def model_name(result: EvaluationJson) -> str:
    """Return the model's name in tables, with its precision where that is reduced."""
    name, precision = result["model"]["name"], result["model"].get("precision", "fp32")
    shown = f"{name.removesuffix('.random')}, random init" if is_random(result) else name
    return shown if precision == "fp32" else f"{shown}, {precision}"


def is_random(result: EvaluationJson) -> bool:
    """Return whether the network had random weights."""
    return result["model"]["name"].endswith(".random")


def _format(value: float | None) -> str:
    """Return a number with one or two decimals, with three below 1, and - for none."""
    if value is None or math.isnan(value):
        return "-"
    text = f"{value:.2f}" if 0 <= value < 1 or round(value, 1) != value else f"{value:.1f}"
    if value >= 1 or value == 0:
        return text
    short = f"{value:.3f}".rstrip("0")
    return f"{short}0" if short.endswith(".") else short
