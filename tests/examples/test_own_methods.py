"""Methods in files of their own: the official codes' outputs, and a run, a resumed run and an export by their names."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from forked_commands import run_module
from relative_errors import RelativeErrors
from torch import Tensor, nn

from training import Method
from training.data import augment
from training.engine.optim import build_optimiser, set_learning_rate
from training.engine.schedules import warmup_cosine
from training.launch import launch
from training.methods import build_method
from training.recipes.config import Recipe, Views
from zoo.convert.common import recognise
from zoo.errors import UserError
from zoo.models.resnet import build_encoder

ROOT = Path(__file__).parents[2]
METHODS, PHOTOS = ROOT / "examples" / "methods", ROOT / "examples" / "photos"
CLASSES = {"barlow_twins": "BarlowTwins", "vicreg": "VICReg"}


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in METHODS.glob("*.py"):  # the tests of pages import copies of these modules
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    monkeypatch.syspath_prepend(METHODS)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def images(array: np.ndarray) -> Tensor:
    """[.., H, W, 3] of bytes -> normalised [.., 3, H, W]."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (augment.MEAN, Views().std))
    return (torch.tensor(array, dtype=torch.float64).movedim(-1, -3) / 255 - mean) / std


def trajectory(group: Path, name: str, options: dict[str, Any]) -> None:
    """Loss, learning rate and final weights of some steps of the official code, from its own checkpoint."""
    hyper, data = json.loads(group.with_suffix(".json").read_text()), np.load(group.with_suffix(".npz"))
    with torch.serialization.safe_globals([(images, "__main__.exclude_bias_and_norm")]):  # VICReg's optimiser names it
        loaded = torch.load(group.with_name(group.name + ".init.pth"), weights_only=True)["model"]
    state = {key.removeprefix("module."): torch.as_tensor(value) for key, value in loaded.items()}
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    architecture, encoder_state = recognise(backbone)
    widths = [int(width) for width in hyper.get("projector", hyper.get("expander")).split("-")]
    cls = getattr(module(name), CLASSES[name])
    model = cls(
        build_encoder(architecture), architecture.num_features, hidden=widths[0], out=widths[-1], **options
    ).double()
    model.encoder.load_state_dict(encoder_state)
    model.projector.load_state_dict({k.removeprefix("projector."): v for k, v in state.items() if "projector." in k})
    errors, weights = RelativeErrors(torch.float64), RelativeErrors(torch.float64)

    # The projector in eval mode.
    model.eval()
    with torch.no_grad():
        embedding = model.encoder(images(data["eval_image"]))
        errors.add("embedding", embedding, data["eval_embedding"])
        errors.add("projection", model.projector(embedding), data["eval_projection"])
    model.train()

    # The loss alone, with its gradients.
    for case in ("a", "b"):
        z1, z2 = (torch.tensor(data[f"loss_{case}_z{n}"], requires_grad=True) for n in (1, 2))
        normalise = nn.BatchNorm1d(z1.shape[1], affine=False).double() if name == "barlow_twins" else nn.Identity()
        loss = model.loss(normalise(z1), normalise(z2))
        loss.backward()
        errors.add(f"loss {case}", loss, data[f"loss_{case}"])
        errors.add(f"gradient 1 {case}", z1.grad, data[f"loss_{case}_grad_z1"])
        errors.add(f"gradient 2 {case}", z2.grad, data[f"loss_{case}_grad_z2"])

    # Training steps with the recipe's optimiser and schedule.
    recipe: Recipe = module(name).published()
    optim = recipe.optim
    optimiser = build_optimiser(model, optim)
    for step, rates in enumerate(np.reshape(data["learning_rate"], (len(data["loss"]), -1))):
        lr = warmup_cosine(
            hyper["first_step"] + step,
            base=optim.lr,
            final=optim.final_lr,
            batch_size=hyper["batch"],
            total=hyper["total_steps"],
            warmup=hyper["warmup_steps"],
        )
        set_learning_rate(optimiser, optim, lr)
        assert [group["lr"] for group in optimiser.param_groups][: len(rates)] == pytest.approx(rates, rel=1e-12)
        loss = model([images(data["view1"][step]), images(data["view2"][step])])["loss"]
        errors.add(f"step {step}", loss, data["loss"][step])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    cases = [f"{what} {case}" for case in "ab" for what in ("loss", "gradient 1", "gradient 2")]
    errors.require(1e-9, ["embedding", "projection", *cases, *(f"step {n}" for n in range(len(data["loss"])))])
    weights.add("projector", model.projector[6].weight, data["final_projector_weight"])
    weights.require(1e-10, ["projector"])


@pytest.mark.usefixtures("methods")
def test_barlow_twins_against_the_official_code(barlowtwins_group: Path) -> None:
    trajectory(barlowtwins_group, "barlow_twins", {"lambd": 0.0051})


@pytest.mark.usefixtures("methods")
def test_vicreg_against_the_official_code(vicreg_group: Path) -> None:
    trajectory(vicreg_group, "vicreg", {})


@pytest.mark.usefixtures("methods")
def test_the_schedules_are_the_official_ones(barlowtwins_group: Path) -> None:
    """The learning rates of weights and biases, of thirty epochs or of the few steps that a golden has."""
    found = np.load(barlowtwins_group.with_suffix(".npz"))
    about = json.loads(barlowtwins_group.with_suffix(".json").read_text())
    batch, total, warmup = 2048, 1200, 400
    if "schedule_step_weights_biases" in found:
        rows = found["schedule_step_weights_biases"]
        assert len(rows) > 100
    else:
        rows = [(about["first_step"] + step, *rates) for step, rates in enumerate(found["learning_rate"])]
        batch, total, warmup = about["batch"], about["total_steps"], about["warmup_steps"]
    assert len(rows) > 1
    optim = module("barlow_twins").published().optim
    for step, weights, biases in rows:
        lr = warmup_cosine(step, base=optim.lr, final=optim.final_lr, batch_size=batch, total=total, warmup=warmup)
        assert (lr, lr * 0.0048 / 0.2) == pytest.approx((weights, biases), rel=1e-6)


def correlation_loss(z1: np.ndarray, z2: np.ndarray, lambd: float) -> float:
    """Equation 1 of Barlow Twins, entry by entry."""
    n, d = z1.shape
    z1, z2 = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (z1, z2))
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = float((z1[:, i] * z2[:, j]).sum() / n)
            total += (1 - c) ** 2 if i == j else lambd * c**2
    return total


def variance_loss(z1: np.ndarray, z2: np.ndarray) -> float:
    """Equation 6 of VICReg, entry by entry."""
    n, d = z1.shape
    total = 25 * float(((z1 - z2) ** 2).mean())
    for z in (z1, z2):
        for i in range(d):
            total += 25 * max(0.0, 1 - float(np.sqrt(z[:, i].var(ddof=1) + 1e-4))) / d / 2
            for j in range(d):
                if i != j:
                    total += float(((z[:, i] - z[:, i].mean()) * (z[:, j] - z[:, j].mean())).sum() / (n - 1)) ** 2 / d
    return total


@pytest.mark.usefixtures("methods")
@pytest.mark.parametrize("name", CLASSES)
def test_the_losses_are_the_papers(name: str) -> None:
    z1, z2 = np.random.default_rng(0).normal(size=(2, 7, 5))
    model = getattr(module(name), CLASSES[name])(nn.Identity(), 5, hidden=4, out=5).double()
    one, two = torch.from_numpy(z1), torch.from_numpy(z2)
    if name == "barlow_twins":
        ours, expected = model.loss(model.bn(one), model.bn(two)), correlation_loss(z1, z2, 0.0051)
    else:
        ours, expected = model.loss(one, two), variance_loss(z1, z2)
    assert float(ours) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_a_method_of_ones_own_is_trained_resumed_and_exported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands, from another folder; a checkpoint alone imports nothing."""
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(METHODS)])  # children inherit it
    small = [word for text in ("optim.batch_size=8", "optim.epochs=2", "heads.hidden=16", "heads.out=8",
                               "monitor_epochs=0") for word in ("--set", text)]  # fmt: skip
    reference = f"{METHODS / name}.py:recipe"
    command = ["run", reference, "--data", str(PHOTOS), "--device", "cpu", *small]
    done = run_module("training", *command, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = run_module("training", *command, "--out", "run", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr

    export = ["export", "run", "--out", "encoder.safetensors"]
    refused = run_module("training", *export, cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    whose = f"{name}:{CLASSES[name]}"
    assert f"add --method {whose}" in refused.stderr
    missing = run_module("training", *export, "--method", whose, cwd=tmp_path)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "cannot be imported" in missing.stderr
    exported = run_module("training", *export, "--method", f"{METHODS / name}.py:{CLASSES[name]}", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    import zoo

    assert zoo.load(tmp_path / "encoder.safetensors", device="cpu").dim == 512


@pytest.mark.usefixtures("methods")
@pytest.mark.parametrize(("name", "option"), [("barlow_twins", "lambd"), ("vicreg", "variance")])
def test_a_wrong_option_is_refused_before_the_data_are_opened(name: str, option: str, tmp_path: Path) -> None:
    reference, sets = f"{METHODS / name}.py:recipe", [f"options.{option}=nan"]
    with pytest.raises(UserError, match=rf"options\.{option}=nan is out of range"):
        launch(reference, str(tmp_path), tmp_path / "run", overrides=sets, device="cpu", resume=False)


def test_options_are_settings_with_a_type() -> None:
    from training.recipes.config import from_json, override, to_json
    from zoo.errors import UserError

    recipe: Recipe = module("barlow_twins").recipe()
    changed = override(recipe, ["options.lambd=0.01"])
    assert changed.options == {"lambd": 0.01}
    assert from_json(json.loads(json.dumps(to_json(changed)))) == changed
    assert "options" not in to_json(Recipe("a", "byol", "r18"))
    for wrong in ("options.lambd=x", "options.other=1", "options=1"):
        with pytest.raises(UserError, match=f"--set {wrong.partition('=')[0]}"):
            override(recipe, [wrong])
    assert issubclass(type(build_method(recipe)), Method)
    assert "barlow_twins" in sys.modules
