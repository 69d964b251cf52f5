"""A resumed run that goes on otherwise, a run that starts from weights, and a run that cannot fit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import Killed, after_step, kill, last, log, tiny

from training.engine import loop, memory, opening, state
from training.engine.loop import train
from training.engine.memory import estimate, fitting, require_fit
from training.recipes import table
from training.recipes.config import Recipe, override
from training.results.export import export
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.hub.networks import load_encoder
from zoo.hub.weights import locate
from zoo.system.atomic_files import sha256_file


def notes(folder: Path) -> list[object]:
    return [line["note"] for line in log(folder) if "note" in line]


def test_more_epochs_extend_a_finished_run(photos: Dataset, tmp_path: Path) -> None:
    once = tiny("simsiam", optim={"epochs": 1})
    train(once, photos, tmp_path, device="cpu")
    end = last(tmp_path)["step"]
    longer = replace(once, optim=replace(once.optim, epochs=3))
    with pytest.raises(UserError, match=r"its optim\.epochs is 1, this one's is 3 \(--change"):
        train(longer, photos, tmp_path, device="cpu", resume=True)
    train(longer, photos, tmp_path, device="cpu", resume=True, changing={"optim.epochs"})
    assert last(tmp_path)["step"] == 3 * end
    assert notes(tmp_path) == [f"optim.epochs 1 -> 3: the schedules are planned again, from step {end} of {3 * end}"]
    with pytest.raises(UserError, match="after the end of"):
        train(once, photos, tmp_path, device="cpu", resume=True, changing={"optim.epochs"})


def test_another_batch_size_keeps_the_epochs_that_are_done(photos: Dataset, tmp_path: Path) -> None:
    recipe = tiny("simsiam", optim={"epochs": 1, "batch_size": 4, "drop_last": False})
    train(recipe, photos, tmp_path, device="cpu")
    images = last(tmp_path)["step"] * 4
    larger = replace(recipe, optim=replace(recipe.optim, epochs=2, batch_size=8, lr=0.01))
    with pytest.raises(UserError, match=r"its optim\.(lr|batch_size)"):
        train(larger, photos, tmp_path, device="cpu", resume=True, changing={"optim.epochs"})
    train(larger, photos, tmp_path, device="cpu", resume=True, changing=state.REPLANNED)
    assert last(tmp_path)["step"] == last(tmp_path)["total_steps"] == 2 * len(photos) // 8
    (note,) = notes(tmp_path)
    assert f"from step {images // 8} of" in str(note)


def test_the_log_of_the_part_before_stays_at_its_epochs(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines move to the steps of the new plan, also where the run is killed before its next checkpoint."""
    recipe = tiny("simsiam", optim={"epochs": 2, "batch_size": 4, "drop_last": False}, monitor_epochs=1)
    train(recipe, photos, tmp_path, device="cpu")
    end = last(tmp_path)["step"]
    before = [line for line in log(tmp_path) if "knn" in line]
    assert [line["epoch"] for line in before] == [1, 2]
    larger = replace(
        recipe, optim=replace(recipe.optim, epochs=4, batch_size=16), monitor_epochs=1, checkpoint_steps=1000
    )
    with monkeypatch.context() as killing:
        after_step(end // 4 + 1, kill, killing)
        for _ in range(2):
            with pytest.raises(Killed):
                train(larger, photos, tmp_path, device="cpu", resume=True, changing=state.REPLANNED)
    train(larger, photos, tmp_path, device="cpu", resume=True, changing=state.REPLANNED)
    lines = log(tmp_path)
    knn = [line for line in lines if "knn" in line]
    assert [line["epoch"] for line in knn] == [1, 2, 2, 3, 4]  # whole steps: the end of the second epoch is repeated
    assert [line["knn"] for line in knn[:2]] == [line["knn"] for line in before]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert [line["step"] for line in knn] == pytest.approx([n * len(photos) / 16 for n in (1, 2, 2, 3, 4)], abs=1)
    # A resume without a change, and one with another rate alone, leave the log as it is.
    faster = replace(larger, optim=replace(larger.optim, lr=0.01))
    train(faster, photos, tmp_path, device="cpu", resume=True, changing=state.REPLANNED)
    assert [line["step"] for line in log(tmp_path)][: len(steps)] == steps


def test_a_warm_up_that_the_schedule_does_not_have_is_said(
    photos: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny("simsiam", optim={"epochs": 1, "schedule": "epoch", "warmup_epochs": 3}), photos, tmp_path, device="cpu")
    assert "schedule=epoch has no warm-up: optim.warmup_epochs=3 changes nothing" in capsys.readouterr().err
    for name in table.RECIPES:
        optim = table.find(name).optim
        assert optim.schedule in ("step", "swav") or not optim.warmup_epochs, name


def test_other_fields_never_change(photos: Dataset, tmp_path: Path) -> None:
    recipe = tiny("simsiam", optim={"epochs": 1})
    train(recipe, photos, tmp_path, device="cpu")
    with pytest.raises(UserError, match=r"its heads\.out is 8, this one's is 16$"):
        train(
            replace(recipe, heads=replace(recipe.heads, out=16)),
            photos,
            tmp_path,
            device="cpu",
            resume=True,
            changing=state.REPLANNED,
        )


@pytest.mark.parametrize("method", ["byol", "mocov2"])
def test_a_run_starts_from_weights_of_the_zoo(
    method: str, photos: Dataset, tmp_path: Path, random_weights: Path
) -> None:
    recipe = tiny(method, architecture="r18", optim={"epochs": 1, "lr": 0.0})
    train(recipe, photos, tmp_path / "run", device="cpu", init=str(random_weights))
    trained, given = last(tmp_path / "run")["method"], load_encoder(locate(random_weights)).state_dict()
    key = "layer4.1.conv2.weight"
    follower = "target_encoder" if method == "byol" else "key_encoder"
    for name in ("encoder", follower):
        torch.testing.assert_close(trained[f"{name}.{key}"], given[key])  # a moving average rounds
    assert "the encoder starts from" in str(notes(tmp_path / "run")[0])
    with pytest.raises(UserError, match=r"--init .* is a resnet18 with .*, .* is a resnet50"):
        train(tiny(method, architecture="r50"), photos, tmp_path / "other", device="cpu", init=str(random_weights))


def test_a_run_remembers_from_which_weights_it_started(photos: Dataset, tmp_path: Path, random_weights: Path) -> None:
    recipe = tiny("simsiam", architecture="r18", optim={"epochs": 1})
    train(recipe, photos, tmp_path / "run", device="cpu", init=str(random_weights))
    longer = replace(recipe, optim=replace(recipe.optim, epochs=2))
    again = {"device": "cpu", "resume": True, "changing": {"optim.epochs"}}
    with pytest.raises(UserError, match=r"run started from random_r18, and --init .* holds other weights"):
        train(longer, photos, tmp_path / "run", init="byol_r18.random", **again)  # type: ignore[arg-type]
    train(longer, photos, tmp_path / "run", init=str(random_weights), **again)  # type: ignore[arg-type]
    assert last(tmp_path / "run")["init"] == {"weights": "random_r18", "sha256": sha256_file(random_weights)}
    # A card says it, too.
    export(tmp_path / "run", tmp_path / "e.safetensors")
    assert (
        f"| started from | random_r18, sha256 `{sha256_file(random_weights)}` |" in (tmp_path / "e.card.md").read_text()
    )


@pytest.mark.parametrize("name", ["byol_r50_in1k_300ep", "simclr_r50_in1k_1000ep", "byol_r200x2_in1k_1000ep"])
def test_a_run_that_cannot_fit_is_refused_with_settings_that_can(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 16 * 2**30
    monkeypatch.setattr(memory, "device_memory", lambda device: limit)
    recipe, cpu = table.find(name), torch.device("cpu")
    with pytest.raises(UserError, match=r"needs about [\d.]+ GB on cpu, which has 17\.2: --set .* fits") as refused:
        require_fit(recipe, cpu)
    advice = str(refused.value).partition("--set ")[2].partition(" fits")[0]
    fitting: Recipe = table.find(name)
    for setting in advice.split(", "):
        fitting = override(fitting, [setting])
    require_fit(fitting, cpu)
    assert estimate(fitting).total > limit / 8, "the least change"


@pytest.mark.parametrize("name", ["byol_r50_in1k_300ep", "simclr_r50_in1k_1000ep", "swav_r50_in1k_100ep"])
def test_every_setting_that_a_refusal_names_fits(name: str) -> None:
    limit, recipe = 10 * 10**9, table.find(name)
    ways = fitting(recipe, limit)
    assert len(ways) >= 2
    for way in ways:
        assert estimate(override(recipe, way)).total <= limit, way
    assert any(setting.startswith("optim.batch_size") for way in ways for setting in way)
    assert any("checkpoint_activations=true" in way for way in ways)
    assert fitting(recipe, 10**13) == [[]]
    assert fitting(recipe, 10**8) == []


def test_a_published_recipe_on_a_small_machine_is_refused_before_anything_is_built(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda device: 3 * 10**9)
    monkeypatch.setattr(opening, "build_method", lambda *_: pytest.fail("a network was built"))
    recipe = replace(table.find("byol_r50_in1k_300ep"), optim=replace(tiny("byol").optim, batch_size=32))
    with pytest.raises(
        UserError, match=r"needs about [\d.]+ GB on cpu, which has 3\.0: --set accumulate=\d fits; so does "
    ):
        train(recipe, photos, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_says_its_memory_and_time_before_its_first_step(
    photos: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("simsiam")
    train(recipe, photos, tmp_path / "fp32", device="cpu")
    line = next(line for line in capfd.readouterr().err.splitlines() if line.startswith("expected: "))
    assert re.fullmatch(
        r"expected: 0\.8 of [\d.]+ GB on cpu; 80 images x [\d.]+ GFLOP: about 1 seconds where \d+ GFLOP/s were "
        r"measured on \d CPU cores?.*",
        line,
    ), line
    monkeypatch.setattr(loop, "_SOON", 0)
    train(
        replace(recipe, precision="bf16", optim=replace(recipe.optim, batch_size=4)),
        photos,
        tmp_path / "bf16",
        device="cpu",
    )
    said = capfd.readouterr().err
    assert "whose time the first steps will tell" in said
    assert re.search(r"about \d+ \w+ left, by the first 5 steps here", said)


@pytest.mark.parametrize(
    ("name", "banks", "terms"),
    [("instdisc_r50_in1k_200ep", 1, 1), ("cmc_r50_in1k_240ep", 2, 2), ("pirl_r50_in1k_800ep", 1, 2)],
)
def test_an_estimate_counts_the_memory_bank(name: str, banks: int, terms: int) -> None:
    """128 numbers of 4 bytes for each of ImageNet's images, and for each row that an image is scored against."""
    recipe, images = table.find(name), 1_281_167
    without, found = estimate(recipe), estimate(recipe, images=images)
    assert found.fixed - without.fixed == banks * images * 128 * 4
    fewer = estimate(replace(recipe, options={**recipe.options, "negatives": 1}), images=images)
    assert found.image - fewer.image == terms * (int(recipe.options["negatives"]) - 1) * 128 * 4


def test_a_bank_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run whose network would fit: the bank of a hundred million images has 51 GB."""
    recipe, cpu = table.find("instdisc_r10_cifar10_3ep"), torch.device("cpu")
    monkeypatch.setattr(memory, "device_memory", lambda device: 16 * 2**30)
    require_fit(recipe, cpu, images=100_000)
    with pytest.raises(UserError, match=r"needs about \d+\.\d GB on cpu, which has 17\.2: no batch of it fits"):
        require_fit(recipe, cpu, images=100_000_000)


def test_an_estimate_counts_the_patches_of_cpc() -> None:
    """36 patches of 80 pixels, and not the view of 260 that they overlap in."""
    recipe = table.find("cpc_r50_in1k_200ep")
    plain = replace(recipe, method="instdisc", options=table.find("instdisc_r50_in1k_200ep").options)
    drawn = 4097 * 64 * 4
    assert estimate(recipe).image / (estimate(plain).image - drawn) == pytest.approx(36 * 80**2 / 260**2, rel=1e-3)


def test_an_estimate_counts_views_precision_and_recomputing() -> None:
    recipe = table.find("simsiam_r50_in1k_100ep")
    base = estimate(recipe)
    assert estimate(replace(recipe, precision="fp32")).image == pytest.approx(2 * base.image, rel=0.01)
    assert estimate(replace(recipe, checkpoint_activations=True)).image < base.image / 2
    assert estimate(recipe, ranks=8).images == base.images // 8
    assert base.image / 2 / 2**20 == pytest.approx(41.9, rel=0.1)  # the table of docs/training/index.md, two views
