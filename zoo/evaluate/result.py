"""The result of an evaluation, the JSON it becomes, and the 95 % intervals of scores.

``EvaluationJson`` describes the JSON that ``zoo evaluate`` writes and ``zoo report`` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError
from zoo.system.json_reader import BadJson, fields, items, number, read_json, text, whole
from zoo.system.json_types import JSON

Scalar = TypeVar("Scalar", bound=np.generic)


class SplitJson(TypedDict):
    """Size of a split, and a sha256 over its images and labels."""

    images: int
    sha256: str


class DataJson(TypedDict):
    """The data set of an evaluation; ``split`` is the rule by which it was split, in words."""

    name: str
    classes: int
    train: NotRequired[SplitJson]
    val: NotRequired[SplitJson]
    test: NotRequired[SplitJson]
    split: NotRequired[str]


class FractionJson(TypedDict):
    """The fine-tunings of ``semi-supervised`` with one fraction of the labels; scores and spread in percent."""

    percent: float
    images: int
    chosen_by: NotRequired[str]
    chosen: dict[str, object]
    mean: float
    spread: float
    interval_95: list[float]
    top1: list[float]
    top5: list[float]


class DetailsJson(TypedDict, total=False):
    """The part of ``details`` that figures are drawn from."""

    fractions: list[FractionJson]


class ModelJson(TypedDict):
    """Name and size of the model; in the file the other keys of ``Embedder.identity`` stand beside these."""

    name: str
    dim: NotRequired[int]
    parameters: NotRequired[int]
    precision: NotRequired[str]


class EvaluationJson(TypedDict):
    """The JSON of one evaluation: what ``Result.to_json`` gives, and what ``zoo.evaluate.run`` adds.

    Attributes:
        options: seed, schedule and the ``--set`` options as text.
        command: the command line that runs the evaluation again.
        versions: of every package that can change a score.
        file: name of the file, added by ``zoo report``.
    """

    protocol: str
    metric: str
    score: float
    interval_95: tuple[float, float]
    interval: NotRequired[str]
    parameters: Mapping[str, object]
    metrics: NotRequired[Mapping[str, float]]
    details: NotRequired[DetailsJson]
    data: DataJson
    model: ModelJson
    options: NotRequired[Mapping[str, object]]
    command: NotRequired[str]
    versions: NotRequired[Mapping[str, str]]
    seconds: NotRequired[float]
    file: NotRequired[str]


@dataclass(frozen=True)
class Result:
    """One score and what is needed to believe it.

    Attributes:
        metric: name of ``score``, e.g. ``top-1``, ``mean per class``, ``mIoU``, ``AP50``.
        score: percent, 0 to 100.
        interval_95: lower and upper bound in percent.
        parameters: chosen hyper-parameters and how they were chosen; JSON-able.
        data: see ``data_summary``.
        interval: how ``interval_95`` was computed: ``Wilson`` (a proportion), ``bootstrap`` (over test images) or
            ``t over N seeds``.
        metrics: other numbers of the protocol by name.
        details: what tables and figures are drawn from; JSON-able.
    """

    metric: str
    score: float
    interval_95: tuple[float, float]
    parameters: Mapping[str, object]
    data: Mapping[str, object]
    interval: str = "Wilson"
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the protocol's part of ``EvaluationJson``, scores rounded to two decimals."""
        low, high = self.interval_95
        return {
            "metric": self.metric,
            "score": round(self.score, 2),
            "interval_95": [round(low, 2), round(high, 2)],
            "interval": self.interval,
            "parameters": dict(self.parameters),
            "metrics": {k: round(v, 4) for k, v in self.metrics.items()},
            "details": dict(self.details),
            "data": dict(self.data),
        }


RESULT_KEYS = frozenset(("protocol", "metric", "score", "interval_95", "data", "model"))
"""Keys by which a JSON object is known to be the result of an evaluation."""


def check_result(value: object) -> EvaluationJson:
    """Check a parsed JSON file of ``zoo evaluate``: the one reader of results, for report, card and ``zoo info``.

    The values that tables and figures use are checked; what else stands in the file is passed on.

    Raises:
        BadJson: it is no result, or a value has another type or is out of its range.
    """
    result = fields(value, *RESULT_KEYS)
    text(result["protocol"])
    text(result["metric"])
    number(result["score"])
    for bound in _two(result["interval_95"]):
        number(bound)
    # Only what tables and figures use.
    data, model = fields(result["data"], "name"), fields(result["model"], "name")
    text(data["name"])
    text(model["name"])
    for key in ("dim", "parameters"):
        if key in model:
            whole(model[key])
    if "precision" in model:
        text(model["precision"])
    for split in ("train", "val", "test"):
        if split in data:
            text(fields(data[split]).get("sha256", ""))
    text(fields(result.setdefault("parameters", {})).get("mode") or "")
    for key in ("metrics", "options"):
        fields(result.get(key, {}))
    for metric in fields(result.get("metrics", {})).values():
        if metric is not None and metric == metric:  # null and NaN: the data has no such class
            number(metric)
    fractions = items(fields(result.get("details", {})).get("fractions", []))
    for fraction in fractions:
        number(fields(fraction, "percent", "mean", "spread")["percent"], 1e-6, 100)
        for key in ("mean", "spread"):
            number(fields(fraction)[key])
    if result["protocol"] == "semi-supervised" and not fractions:
        raise BadJson("it has no details.fractions")
    return cast(EvaluationJson, result)


def read_result(path: Path) -> EvaluationJson:
    """Read a JSON file of ``zoo evaluate``. UserError: it cannot be read, or ``check_result`` refuses it."""
    try:
        return check_result(read_json(path, nan=True))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except BadJson as error:
        raise UserError(f"{path} is no result of `zoo evaluate` ({error}): evaluate again, or remove it") from None


def _two(value: object) -> list[JSON]:
    if len(pair := items(value)) != 2:
        raise BadJson("an interval has two bounds")
    return pair


def data_summary(path: Path, classes: int, **splits: tuple[int, str]) -> dict[str, object]:
    """Return ``DataJson`` of a data set at ``path``; each split is (number of images, sha256)."""
    sizes = {name: SplitJson(images=images, sha256=sha256) for name, (images, sha256) in splits.items()}
    return {"name": path.stem, **sizes, "classes": classes}


def wilson_interval(correct: NDArray[np.bool_]) -> tuple[float, tuple[float, float]]:
    """Return the percentage of true values, and its 95 % interval in percent (Wilson 1927)."""
    total, right = len(correct), int(correct.sum())
    z, p = 1.96, right / total
    centre, half = p + z * z / (2 * total), z * sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    low, high = (100 * (centre + sign * half) / (1 + z * z / total) for sign in (-1, 1))
    return 100 * p, (max(0.0, low), min(100.0, high))  # rounding goes beyond where all are wrong, or all right


def mean_over_seeds(scores: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the mean of two or more scores in percent, and its 95 % interval (Student's t), clipped to 0..100."""
    from scipy.stats import t

    n, mean = len(scores), float(np.mean(scores))
    half = float(t.ppf(0.975, n - 1) * np.std(scores, ddof=1)) / sqrt(n)
    return mean, (max(0.0, mean - half), min(100.0, mean + half))


def bootstrap_interval(
    samples: NDArray[Scalar], statistic: Callable[[NDArray[Scalar]], float], *, seed: int = 0, rounds: int = 1000
) -> tuple[float, float]:
    """Return the 95 % percentile interval of ``statistic(rows)`` over rows of ``samples`` drawn with replacement."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    values = [statistic(samples[rng.integers(0, len(samples), len(samples))]) for _ in range(rounds)]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)
