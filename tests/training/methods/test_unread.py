"""A setting that a method does not read is said, in a run and in a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import METHODS, tiny

from training.engine import loop
from training.launch import launch, launch_sweep
from training.methods.unread import unread_settings
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
    assert unread_settings(override(recipe, [setting]), recipe) == ([field] if unread else [])
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_built_to_know_it(method: str) -> None:
    """None of them needs memory for that, or reads a number of epochs that SwAV's queue waits."""
    recipe = tiny(method)
    changed = override(recipe, ["objective.queue_from_epoch=3", "heads.out=4"])
    assert unread_settings(changed, recipe) == (
        [] if method == "swav" else ["heads.out", "objective.queue_from_epoch"]
        if method == "supervised"
        else ["objective.queue_from_epoch"]
    )  # fmt: skip


def test_a_run_says_so_and_a_sweep_refuses(
    labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, data = "mocov2_r10_cifar10_3ep", str(labelled_folder)
    monkeypatch.setattr(loop, "train", lambda *others, **options: tmp_path)
    overrides = ["heads.projector_layers=1", "objective.temperature=0.3"]
    launch(name, data, tmp_path, overrides=overrides, device="cpu", resume=False)
    said = capsys.readouterr().err
    assert "--set heads.projector_layers changes nothing: mocov2 does not read it" in said
    assert "temperature" not in said
    with pytest.raises(UserError, match=r"--over heads\.projector_layers: mocov2 does not read it"):
        launch_sweep(
            name, data, tmp_path, over=["heads.projector_layers=1,2", "lr=0.1,0.2"], overrides=[], halving=None,
            images=None, in_memory=False, device="cpu", report=print,
        )  # fmt: skip
