"""A recipe for somebody's images: it fits, it runs, and its hours come from a rate that was measured."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked_commands import run_module
from tiny_runs import tiny

import training
from training.engine.cost import RATES, Rate, duration, measured_rates, nearest_rate, operations
from training.engine.memory import estimate
from training.engine.validate import check_run
from training.planning import measure, recommend
from training.planning.recommend import recommend as recommended
from training.recipes.config import override
from training.recipes.table import find
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("images", "size", "device", "memory"),
    [(24, 40, "cpu", 2), (1000, 32, "gpu", 2), (3000, 64, "gpu", 4), (70_000, 300, "gpu", 6), (5000, 500, "cpu", 1.5)],
)
def test_what_is_recommended_fits(images: int, size: int, device: str, memory: float) -> None:
    found = recommended(images, size, device, memory)
    assert found.recipe == override(find(found.name), found.settings)
    assert estimate(found.recipe).total <= memory * 1e9
    assert found.recipe.optim.batch_size <= images
    assert found.recipe.optim.warmup_epochs < found.recipe.optim.epochs
    assert found.command.split()[:3] == ["zoo-train", "run", found.name]
    assert set(found.reasons) == {"recipe", "size", "batch", "epochs", "hours"}
    assert (found.seconds is None) == (device == "gpu")


def test_the_recommended_command_trains(photos: Dataset, tmp_path: Path) -> None:
    found = recommended(len(photos), 40, "cpu", 4)
    recipe = override(found.recipe, ["optim.epochs=1", "optim.warmup_epochs=0", "monitor_epochs=0"])
    check_run(found.recipe, photos, "cpu")
    assert training.train(recipe, photos, tmp_path, device="cpu").exists()


def test_hours_are_the_recorded_rate_scaled_by_operations() -> None:
    found = recommended(50_000, 32, "cpu", 8)
    rate = next(rate for rate in measured_rates() if rate.recipe == "simclr_r18_tin32")
    assert found.seconds == pytest.approx(18 * 50_000 / rate.images_per_second)
    assert f"about {duration(found.seconds)} on {rate.hardware}" in found.reasons["hours"]
    larger = recommended(50_000, 64, "cpu", 8)
    other = nearest_rate(operations(larger.recipe), "fp32", "cpu", measured_rates())
    assert other is not None
    assert larger.seconds == pytest.approx(900_000 * operations(larger.recipe) / other.operations_per_second)
    assert "decoding such large images comes on top" not in larger.reasons["hours"]
    assert "decoding such large images comes on top" in recommended(50_000, 500, "cpu", 8).reasons["hours"]
    on_gpu = recommended(50_000, 32, "gpu", 8)
    assert "not known" in on_gpu.reasons["hours"]
    assert "--measure" in on_gpu.reasons["hours"]


def test_the_rates_are_those_of_the_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "training_rate.py"))
    assert script["collected"]() == [rate for rate in measured_rates() if rate.device == "cpu"]


def test_the_table_of_the_docs_is_the_script_s() -> None:
    table = runpy.run_path(str(ROOT / "benchmarks" / "my_images.py"))["table"]()
    assert table in (ROOT / "docs" / "how-to" / "train.md").read_text()


def test_a_rate_that_is_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny("simsiam")
    rate = measure.measure(recipe, "cpu", side=40, steps=2)
    assert (rate.device, rate.precision, rate.operations) == ("cpu", "fp32", operations(recipe))
    assert rate.images_per_second > 0
    given = Rate("here", "cpu", "fp32", "mine", 1e9, 100.0)
    monkeypatch.setattr(recommend, "measure", lambda *_, **__: given)
    found = recommended(1000, 32, "cpu", 4, measured=True)
    assert "on here:" in found.reasons["hours"]
    assert found.seconds == pytest.approx(800_000 * operations(found.recipe) / 1e11)


def test_a_method_that_cannot_be_built_without_memory_is_still_trained(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "counting_method.py").write_text(
        "from training.methods.simsiam import SimSiam\n"
        "class Counting(SimSiam):\n"
        "    @classmethod\n"
        "    def from_recipe(cls, recipe):\n"
        "        method = super().from_recipe(recipe)\n"
        "        assert sum(p.sum().item() for p in method.parameters()) != 0\n"
        "        return method\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = replace(tiny("simsiam"), method="counting_method:Counting")
    training.train(recipe, photos, tmp_path / "run", device="cpu")
    assert "GB on cpu; the first steps will tell the time of 80 images" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--for-data", "3", "--size", "64"), "--for-data 3: give the number"),
        (("--for-data", "100"), "--for-data needs --size"),
        (("--for-data", "100", "--size", "7"), "--size 7: give the short side"),
        (("--for-data", "100", "--size", "64", "--device", "tpu"), "--device tpu: give cpu or gpu"),
        (("--for-data", "100", "--size", "64", "--device", "cpu", "--memory", "0.1"), "GB for two images: give more"),
        (("--for-data", "100", "--size", "64", "--device", "cpu", "--memory", "-1"), "--memory -1: give the GB"),
        (("--for-data", "100", "--size", "64", "--device", "cpu", "--memory", "nan"), "give the GB"),
        (("--size", "64"), "--size needs --for-data"),
        (("--measure",), "--measure needs --for-data"),
        (("simsiam", "--for-data", "100", "--size", "64"), "leave the name and the filters out"),
    ],
)
def test_a_wrong_wish_is_one_line(words: tuple[str, ...], message: str) -> None:
    done = run_module("training", "recipes", *words, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr


def test_without_a_gpu_its_memory_must_be_given() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="--memory GB is needed"):
        recommended(100, 64, "gpu", None)
    assert RATES.is_file()


def test_operations_are_those_that_the_benchmark_counted() -> None:
    """``benchmarks/training.py`` counted the whole step: heads, too, and not the gradient of the images."""
    import json

    for file, sets in (("r18", ["architecture=r18", "views.size=64"]), ("r50", [])):
        methods = json.loads((ROOT / "benchmarks" / "results" / f"training_{file}_cpu.json").read_text())["methods"]
        for method, name in (("byol", "byol_r50_in1k_300ep"), ("simsiam", "simsiam_r50_in1k_100ep")):
            recipe = override(find(name), sets)
            assert operations(recipe) / 1e9 == pytest.approx(methods[method]["gflop_per_image"], rel=0.03)
    base = find("mocov2_r50_in1k_200ep")
    once = operations(base)
    both = operations(replace(base, objective=replace(base.objective, symmetric=True)))
    assert both == pytest.approx(2 * once)
    recomputed = operations(replace(base, checkpoint_activations=True))
    assert recomputed == pytest.approx(once * 5 / 4)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"rates": [{}]}', '{"rates": [{"hardware": 1}]}', '{"rates": {"a": 1}}']
)
def test_a_damaged_file_of_rates_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "rates.json").write_text(text)
    with pytest.raises(UserError, match=r"holds no measured rates \(.*\): benchmarks/training_rate\.py writes it"):
        measured_rates(tmp_path / "rates.json")
