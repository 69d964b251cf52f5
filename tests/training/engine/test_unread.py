"""A setting that a run does not read is said, in a run and in a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import METHODS, tiny

from training.engine import loop
from training.engine.unread import unread_settings, without_result
from training.launch import launch, launch_sweep
from training.recipes.config import override
from zoo.errors import UserError


@pytest.mark.parametrize(
    ("method", "setting", "unread"),
    [
        ("mocov2", "heads.projector_layers=3", True),
        ("mocov2", "heads.mlp_layers=1", False),
        ("mocov2", "optim.tau=0.5", True),
        ("mocov2", "objective.key_momentum=0.5", False),
        ("swav", "heads.projector_layers=3", True),
        ("swav", "objective.epsilon=0.1", False),
        ("simclr", "heads.mlp_layers=3", True),
        ("simclr", "objective.temperature=0.5", False),
        ("byol", "optim.tau=0.5", False),
        ("byol", "objective.temperature=0.5", True),  # of negatives, without beta
        ("swav", "objective.queue_from_epoch=1", False),
        ("simsiam", "optim.momentum=0.5", False),
        ("simsiam", "optim.fixed_predictor_lr=false", False),
        ("simclr", "optim.fixed_predictor_lr=false", True),
        ("pirl", "optim.fixed_predictor_lr=false", True),
        ("simsiam", "optim.start_lr=0.1", True),
        ("swav", "optim.start_lr=0.1", False),
        ("simsiam", "optim.final_lr=0.1", False),
        ("simsiam", "optim.decay_epochs=3", True),
        ("simsiam", "optim.decay_start=3", True),
        ("simsiam", "optim.warmup_epochs=1", False),
        ("simsiam", "optim.batch_size=4", False),
        ("simsiam", "bn_group_images=4", False),
        ("mocov2", "bn_group_images=4", True),
        ("simsiam", "views.small_count=4", True),
        ("simsiam", "views.small_size=16", True),
        ("simsiam", "views.first.hue=0.2", False),
        ("swav", "views.small_size=16", False),
        ("swav", "views.small.hue=0.3", False),
        ("byol_gn", "optim.tau=0.5", False),
        ("byol", "objective.key_momentum=0.5", True),
        ("mocov3", "optim.tau=0.5", False),
        ("simsiam", "objective.temperature=0.5", True),
        ("simsiam", "optim.lr=0.5", False),
        ("supervised", "heads.classes=3", False),
    ],
)
def test_what_a_method_does_not_read_is_known(method: str, setting: str, unread: bool) -> None:
    recipe, random = tiny(method), torch.random.get_rng_state()
    field = setting.partition("=")[0]
    assert list(unread_settings(override(recipe, [setting]), recipe)) == ([field] if unread else [])
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_built_to_know_it(method: str) -> None:
    """None of them needs memory for that, or reads a number of epochs that SwAV's queue waits."""
    recipe = tiny(method)
    changed = override(recipe, ["objective.queue_from_epoch=3", "heads.out=4"])
    assert list(unread_settings(changed, recipe)) == (
        [] if method == "swav" else ["heads.out", "objective.queue_from_epoch"]
        if method == "supervised"
        else ["objective.queue_from_epoch"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (["optim.name=adamw"], "optim.momentum=0.5", "optim.name=adamw and optim.schedule=step do not read it"),
        (["optim.schedule=decay"], "optim.final_lr=0.1", "optim.name=sgd and optim.schedule=decay do not read it"),
        (["optim.schedule=decay"], "optim.decay_epochs=3", None),
        (["optim.schedule=epoch"], "optim.warmup_epochs=1", "optim.name=sgd and optim.schedule=epoch do not read it"),
        (["objective.beta=0.5"], "objective.temperature=0.5", None),
        (["views.first.jitter_p=0"], "views.first.hue=0.2", "views.first.jitter_p is 0"),
    ],
)
def test_one_setting_decides_whether_another_is_read(first: list[str], second: str, reason: str | None) -> None:
    recipe = override(tiny("byol"), first)
    found = unread_settings(override(recipe, [second]), recipe)
    assert found == ({second.partition("=")[0]: reason} if reason else {})


def test_a_field_that_one_candidate_reads_makes_a_difference() -> None:
    recipe = tiny("byol")
    pairs = [override(recipe, [f"beta={b}", f"temperature={t}"]) for b in (0.0, 0.5) for t in (0.1, 0.2)]
    assert without_result(pairs) == {}
    assert list(without_result(pairs[:2])) == ["objective.temperature"]
    assert without_result([override(recipe, [f"monitor_epochs={n}"]) for n in (1, 2)]) == {
        "monitor_epochs": "it changes no result"
    }
    assert without_result([recipe]) == {}


def test_a_run_says_so_and_a_sweep_refuses(
    labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, data = "mocov2_r10_cifar10_3ep", str(labelled_folder)
    monkeypatch.setattr(loop, "train", lambda *others, **options: tmp_path)
    overrides = ["heads.projector_layers=1", "objective.temperature=0.3", "optim.decay_epochs=3"]
    launch(name, data, tmp_path, overrides=overrides, device="cpu", resume=False)
    said = capsys.readouterr().err
    assert "--set heads.projector_layers changes nothing: mocov2 does not read it" in said
    assert "--set optim.decay_epochs changes nothing: optim.name=sgd and optim.schedule=epoch do not read it" in said
    assert "temperature" not in said
    with pytest.raises(UserError, match=r"--over heads\.projector_layers: mocov2 does not read it"):
        launch_sweep(
            name, data, tmp_path, over=["heads.projector_layers=1,2", "lr=0.1,0.2"], overrides=[], halving=None,
            images=None, in_memory=False, device="cpu", report=print,
        )  # fmt: skip
