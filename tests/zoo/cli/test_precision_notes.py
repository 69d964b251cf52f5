"""int8 that loses more than half a point of kNN accuracy, or of which nobody knows, is not offered silently."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import zoo
from zoo.cli.messages import print_opened
from zoo.inference.measured_precision import ALLOWED_LOSS, measured
from zoo.models.registry import MODELS

BENCHMARK = json.loads((Path(__file__).parents[3] / "benchmarks" / "results" / "precision.json").read_text())


def said(capsys: pytest.CaptureFixture[str], model: str, backend: str, precision: str) -> str:
    about = {"model": model, "backend": backend, "precision": precision, "device": "cpu"}
    opened: Any = SimpleNamespace(identity=lambda: about, backend_reason="asked for", shapes={"embedding": (4,)}, dim=4)
    print_opened(opened)
    return "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if "int8" in line)


def test_the_bundled_table_is_the_benchmark_s() -> None:
    accuracies: dict[tuple[str, str, str], float] = {}
    for row in BENCHMARK["rows"]:  # int8 has two widths of weights: keep the one that loses more
        key = row["model"], row["backend"], row["precision"]
        accuracies[key] = min(row["knn_accuracy"], accuracies.get(key, 100))
    reduced = {key: accuracy for key, accuracy in accuracies.items() if key[2] != "fp32"}
    assert reduced
    for (model, backend, precision), accuracy in reduced.items():
        found = measured(f"{model}.{MODELS[model].default_tag}", backend, precision)
        assert found == (accuracies[model, "torch", "fp32"], accuracy, BENCHMARK["data"])


@pytest.mark.parametrize(
    "row", [row for row in BENCHMARK["rows"] if row["precision"] == "int8"], ids=lambda row: row["backend"]
)
def test_a_loss_above_half_a_point_is_one_line(capsys: pytest.CaptureFixture[str], row: dict[str, Any]) -> None:
    name = f"{row['model']}.{MODELS[row['model']].default_tag}"
    found = measured(name, row["backend"], "int8")
    assert found is not None
    line = said(capsys, name, row["backend"], "int8")
    if found.loss > ALLOWED_LOSS:
        assert line.count("\n") == 1
        assert f"{found.loss:.1f} points of kNN accuracy" in line
        assert f"{found.fp32:.1f} to {found.reduced:.1f} %" in line
        assert "--precision fp32" in line
    else:
        assert line == ""


def test_an_unmeasured_model_says_so_and_how_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "my_network", "onnx", "int8")
    assert line.count("\n") == 1
    assert "my_network on onnx is not measured" in line
    assert "benchmarks/precision.py" in line
    for precision in ("fp32", "bf16"):
        assert said(capsys, "my_network", "onnx", precision) == ""


def test_a_model_is_looked_up_by_the_name_that_it_gives_itself() -> None:
    model = zoo.load("byol_r18_mini", backend="onnx", device="cpu")
    assert measured(str(model.identity()["model"]), "onnx", "int8") is not None
