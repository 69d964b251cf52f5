"""Ablations: the grids are the papers', cells are run once, and no order is claimed that intervals do not show."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import add_tiny_architecture

from training.ablations.run import ablate, interval, separated
from training.ablations.tables import ABLATIONS, Setting, full, small
from training.recipes.config import View, Views
from zoo.errors import UserError


@pytest.fixture(scope="module")
def data(labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("splits")
    for split in ("train", "test"):
        shutil.copytree(labelled_folder, root / split)
    return root


def tiny_setting() -> Setting:
    """The small one with a tenth of its network and eight images."""
    add_tiny_architecture()
    setting = small()
    byol, simclr, simsiam = (
        replace(
            r,
            architecture="tiny",
            heads=replace(r.heads, hidden=16, out=8),
            optim=replace(r.optim, epochs=1, batch_size=8),
        )
        for r in (setting.byol, setting.simclr, setting.simsiam)
    )
    return replace(setting, images=16, queries=8, batch_sizes=(8, 4), byol=byol, simclr=simclr, simsiam=simsiam)


@pytest.mark.parametrize("setting", [small(), full()], ids=["small", "full"])
def test_the_grids_are_the_papers(setting: Setting) -> None:
    """[B] tables 5, 16, 17; [S] figure 2."""
    rows = {name: ablation.rows(setting) for name, ablation in ABLATIONS.items()}
    assert [r.published for r in rows["target"]] == [18.8, 69.8, 72.5, 68.4, 0.3]
    optims = [r.recipe.optim for r in rows["target"]]
    assert [(o.tau, o.constant_tau) for o in optims] == [
        (1.0, False), (0.999, False), (0.99, False), (0.9, False), (0.0, True)
    ]  # fmt: skip
    objectives = [r.recipe.objective for r in rows["beta"]]
    assert [(int(o.predictor), int(o.target), o.beta) for o in objectives] == [
        (1, 1, 0), (1, 1, 1), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 0)
    ]  # fmt: skip
    assert [r.published for r in rows["beta"]] == [72.5, 70.9, 70.7, 69.4, 69.1, 0.3, 0.2, 0.1]
    for row in rows["batch-size"]:
        assert row.recipe.optim.batch_size // row.recipe.accumulate == int(row.label.split()[0])
    views = [[r for r in rows["views"] if r.method == method] for method in ("BYOL", "SimCLR")]
    assert [r.published for r in views[0]][:5] == [72.5, 70.3, 63.4, 61.1, 59.4]
    assert [r.published for r in views[1]][:5] == [67.9, 61.9, 45.7, 41.7, 40.3]
    assert [len(v) for v in views] == ([14, 14] if setting.all_views else [5, 5])
    crop_only = rows["views"][4].recipe.views
    assert all(v is not None and v.jitter_p == v.blur_p == v.flip_p == 0 for v in (crop_only.first, crop_only.second))
    assert [r.recipe.objective.stop_gradient for r in rows["stop-gradient"]] == [True, False]
    sizes, per_method = rows["batch-size"], len(setting.batch_sizes)
    assert [r.published for r in sizes[:per_method]] == [72.5, 72.4, 72.2, 72.2, 71.8, 69.6, 59.7][:per_method]
    parts = {4096 // int(r.label.split()[-1].strip(")")): r.recipe.accumulate for r in sizes}
    assert list(parts) == list(parts.values())  # split in as many as what is published beside it


def test_the_full_setting_is_the_papers() -> None:
    """[B] table 17 removes blur and solarize from the second view T' of SimCLR too; [S] table 1's baseline is 67.7."""
    setting = full()
    assert setting.simclr.views == setting.byol.views == Views()
    assert setting.simclr.optim.weight_decay == 1e-6
    assert not setting.simsiam.optim.fixed_predictor_lr
    rows = {(r.method, r.label): r for r in ABLATIONS["views"].rows(setting)}
    for method, published in (("BYOL", 72.2), ("SimCLR", 67.4)):
        row = rows[method, "remove blur and solarize in T'"]
        assert row.published == published
        assert row.recipe.views.first == View()
        assert row.recipe.views.second == View(blur_p=0.0, solarize_p=0.0)
        symmetric = rows[method, "symmetric blurring and solarization"].recipe.views
        assert symmetric.first == symmetric.second == View(blur_p=0.5, solarize_p=0.2)
    assert rows["BYOL", "crop and color only"].recipe.views.first.jitter_p == 0.8


def test_an_ablation_runs_once_and_draws(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    options = {"seeds": 2, "setting": tiny_setting(), "device": "cpu", "report": said.append}
    first = ablate("stop-gradient", data, tmp_path, **options)
    assert json.loads((tmp_path / "stop-gradient.json").read_text()) == first
    assert (tmp_path / "stop-gradient.png").read_bytes().startswith(b"\x89PNG")
    assert len(said) == 4
    assert not list(tmp_path.rglob("checkpoint-*.pt"))
    for row in first["rows"]:
        assert 0 <= row["mean"] <= 100
        assert len(row["cells"]) == 2
        assert row["interval"][0] <= row["mean"] <= row["interval"][1]

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr("training.engine.loop.train", fail)
    assert ablate("stop-gradient", data, tmp_path, **options) == first
    result = next(tmp_path.rglob("result.json"))
    whole = result.read_text()
    for damaged in ("", "[]", whole[:50]):
        result.write_text(damaged)
        with pytest.raises(UserError, match=r"result.json is damaged: remove .*, and its cell is run again"):
            ablate("stop-gradient", data, tmp_path, **options)
    # Files of earlier versions say nothing of the content.
    earlier = json.loads(whole)
    del earlier["content"]
    result.write_text(json.dumps(earlier))
    ablate("stop-gradient", data, tmp_path, **options)
    result.write_text(whole)
    # Other labels of the same images are other data, though names and numbers are the same.
    relabelled = tmp_path / data.name
    shutil.copytree(data, relabelled)
    small_folder, large_folder = relabelled / "test" / "small", relabelled / "test" / "large"
    moved = sorted(small_folder.iterdir())[0]
    moved.rename(large_folder / moved.name)
    with pytest.raises(UserError, match="another setting or data"):
        ablate("stop-gradient", relabelled, tmp_path, **options)
    options["setting"] = replace(tiny_setting(), images=12)
    with pytest.raises(UserError, match="another setting or data"):
        ablate("stop-gradient", data, tmp_path, **options)


def test_an_unknown_ablation_or_no_seed_is_one_line(data: Path, tmp_path: Path) -> None:
    options = {"setting": tiny_setting(), "device": "cpu", "report": print}
    with pytest.raises(UserError, match="one of target, beta"):
        ablate("targets", data, tmp_path, seeds=1, **options)
    with pytest.raises(UserError, match="--seeds 0: give 1 or more"):
        ablate("target", data, tmp_path, seeds=0, **options)


def test_intervals_and_what_they_separate() -> None:
    assert interval([3.0]) is None
    assert interval([1.0, 2.0, 3.0]) == [pytest.approx(2 - 4.303 / 3**0.5, abs=0.01), pytest.approx(4.48, abs=0.01)]
    rows = [
        {"name": "a", "interval": [5.0, 6.0]},
        {"name": "b", "interval": [5.5, 7.0]},
        {"name": "c", "interval": [1.0, 4.9]},
        {"name": "d", "interval": None},
    ]
    assert separated(rows) == [["a", "c"], ["b", "c"]]


@pytest.mark.parametrize("name", ["target", "views", "batch-size"])
def test_every_kind_of_figure_is_drawn(name: str, tmp_path: Path) -> None:
    from training.ablations.figures import draw

    cell = {"curves": {"loss": [[1, 0.5]], "spread": [[1, 1.0]], "knn": []}}
    rows = [
        {"label": r.label, "method": r.method, "published": r.published}
        | {"mean": 30.0, "interval": None, "cells": [cell]}
        for r in ABLATIONS[name].rows(small())
    ]
    result: dict[str, object] = {"ablation": name, "title": "t", "setting": "small", "seeds": 1, "score": "knn"}
    result |= {"source": "s", "rows": rows}
    with (tmp_path / "f.png").open("wb") as file:
        draw(result, file)
    assert (tmp_path / "f.png").stat().st_size > 1000
    assert ABLATIONS[name].title
