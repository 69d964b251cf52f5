"""A part of a method that begins after a run's last step is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import step_reports, tiny, tiny_run

from training.data.sampler import EpochSampler
from training.engine import loop
from training.methods import find_method
from training.recipes import table
from training.recipes.config import override
from zoo.datasets.dataset import Dataset


@pytest.mark.parametrize(
    ("method", "sets", "lines"),
    [
        (
            "swav",
            ["queue_from_epoch=2"],
            ["the queue is never used: objective.queue_from_epoch=2 is after the"],
        ),
        ("swav", ["queue_from_epoch=2", "queue=0"], []),
        ("swav", ["queue_from_epoch=1", "frozen_steps=9"], []),
        (
            "swav",
            ["frozen_steps=10"],
            ["the prototypes stay as they are drawn: objective.frozen_steps=10 covers"],
        ),
        ("localagg", ["options.instance_epochs=2"], ["nothing is clustered: options.instance_epochs=2 covers all 2"]),
        ("localagg", ["options.instance_epochs=1.81"], ["nothing is clustered: options.instance_epochs=1.81 covers"]),
        ("localagg", ["options.instance_epochs=1.79"], []),
        ("mocov2", [], []),
    ],
)
def test_what_a_run_never_reaches_is_known(method: str, sets: list[str], lines: list[str]) -> None:
    recipe = override(tiny(method), sets)
    found = find_method(method).unreached(recipe, 10)
    assert len(found) == len(lines)
    assert all(line.startswith(begin) for line, begin in zip(found, lines, strict=True))


def test_a_run_says_what_it_never_reaches(photos: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(override(tiny("localagg", architecture="tiny10"), ["options.instance_epochs=2"]), photos, tmp_path)
    step_reports(run, 1)
    assert "nothing is clustered: options.instance_epochs=2 covers all 2 epochs" in capsys.readouterr().err


def test_every_recipe_reaches_all_of_its_method() -> None:
    images = {"ImageNet-1k": 1_281_167, "CIFAR-10": 50_000, "Tiny-ImageNet": 100_000, "Tiny-ImageNet, half": 50_000}
    for name, entry in table.RECIPES.items():
        recipe = entry.make()
        sampler = EpochSampler(images[entry.data], recipe.optim.batch_size, recipe.optim.drop_last)
        found = find_method(recipe.method).unreached(recipe, sampler.steps(recipe.optim.epochs))
        assert not found, (name, found)


@pytest.mark.parametrize("emulates", [True, False])
def test_a_run_in_bf16_says_that_the_cpu_is_slow_in_it(
    emulates: bool, photos: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "emulates_bf16", lambda: emulates)
    step_reports(tiny_run(replace(tiny("simclr"), precision="bf16"), photos, tmp_path), 1)
    assert ("no instructions for bf16" in capsys.readouterr().err) == emulates
