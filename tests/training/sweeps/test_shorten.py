"""What a short run of successive halving takes over in proportion."""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import differences, override
from training.recipes.table import find
from training.sweeps.shorten import shortened


def changes(name: str, epochs: int, *settings: str) -> dict[str, object]:
    recipe = override(find(name), list(settings))
    return {path: new for path, new, _ in differences(shortened(recipe, epochs), recipe)}


def test_the_whole_length_changes_nothing() -> None:
    assert changes("localagg_r10_cifar10_3ep", 3) == {}


def test_the_warm_up_and_nothing_else() -> None:
    assert changes("simclr_r50_in1k_1000ep", 250) == {"optim.epochs": 250, "optim.warmup_epochs": 2.5}


def test_the_rate_falls_earlier() -> None:
    instdisc = {"optim.epochs": 25, "optim.decay_start": 15, "optim.decay_epochs": 5}
    assert changes("instdisc_r50_in1k_200ep", 25) == instdisc
    assert changes("supervised_r50_in1k_90ep", 30) == {"optim.epochs": 30, "optim.decay_epochs": 10}
    assert changes("instdisc_r50_in1k_200ep", 1) == {"optim.epochs": 1, "optim.decay_start": 1, "optim.decay_epochs": 1}


def test_a_queue_starts_earlier() -> None:
    found = changes("swav_r50_in1k_200ep_b256", 40)
    assert found["objective.queue_from_epoch"] == 3
    assert "objective.frozen_steps" not in found
    assert "objective.queue_from_epoch" not in changes("swav_r50_in1k_800ep", 40)  # it has no queue


def test_options_in_epochs_keep_their_type() -> None:
    recipe = find("localagg_r10_cifar10_3ep")
    options = {"instance_epochs": 2.0, "pause_epochs": 3, "clusters": 1000, "of_epochs": "all"}
    found = shortened(replace(recipe, options=options), 1).options
    assert found == {"instance_epochs": 0.666667, "pause_epochs": 1, "clusters": 1000, "of_epochs": "all"}
    assert [type(value) for value in found.values()] == [float, int, int, str]
