"""Barlow Twins and VICReg against the official codes' outputs, and MoCo v1 as a recipe of MoCo v2.

``tests/examples/test_methods.py`` holds the same of the examples, and the losses against their formulas.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bank_checks import below, group_files, images, trunk
from relative_errors import RelativeErrors
from torch import nn

from training.data.sampler import EpochSampler
from training.engine.optim import build_optimiser, set_learning_rate
from training.engine.schedules import learning_rate, warmup_cosine
from training.methods import BarlowTwins, VICReg, build_method
from training.monitoring.collapse import collapsed, effective_rank, output_spread, vanished
from training.recipes import table
from training.recipes.config import Optim, Views, differences, from_json, override, to_json


def require_trajectory(group: Path, cls: type[BarlowTwins | VICReg], recipe: str) -> None:
    """Loss with gradients, rates, the losses and the final weights of some steps."""
    hyper, data, init = group_files(group)
    with torch.serialization.safe_globals([(images, "__main__.exclude_bias_and_norm")]):  # VICReg's optimiser names it
        state = below(torch.load(init, weights_only=True)["model"], "module.")
    encoder, dim = trunk(below(state, "backbone."))
    widths = [int(width) for width in hyper.get("projector", hyper.get("expander")).split("-")]
    options: dict[str, Any] = {"lambd": hyper["lambd"]} if cls is BarlowTwins else hyper.get("coefficients", {})
    model = cls(encoder, dim, hidden=widths[0], out=widths[-1], **options).double()
    model.projector.load_state_dict(below(state, "projector."))
    errors, after = RelativeErrors(torch.float64), RelativeErrors(torch.float64)
    model.eval()
    with torch.no_grad():
        embedding = model.encoder(images(data["eval_image"]))
        errors.add("embedding", embedding, data["eval_embedding"])
        errors.add("projection", model.projector(embedding), data["eval_projection"])
    model.train()
    for case in "ab":
        leaves = [torch.tensor(data[f"loss_{case}_z{n}"]).requires_grad_() for n in (1, 2)]
        norm = nn.BatchNorm1d(leaves[0].shape[1], affine=False).double() if cls is BarlowTwins else nn.Identity()
        loss = model.loss(*(norm(z) for z in leaves))
        loss.backward()
        errors.add(f"loss {case}", loss, data[f"loss_{case}"])
        for n, z in enumerate(leaves, 1):
            errors.add(f"grad {case}{n}", z.grad, data[f"loss_{case}_grad_z{n}"])
    optim = optim_of(recipe, hyper)
    optimiser = build_optimiser(model, optim)
    for group in optimiser.param_groups:
        group["eta"] = hyper.get("eta", group["eta"])
        if "lr_scale" in group and "learning_rate_biases" in hyper:
            group["lr_scale"] = hyper["learning_rate_biases"] / optim.lr
    plan = {"batch_size": hyper["batch"], "total": hyper["total_steps"], "warmup": hyper["warmup_steps"]}
    assert len(data["loss"]), "a trajectory without steps"
    for step, rates in enumerate(np.reshape(data["learning_rate"], (len(data["loss"]), -1))):
        set_learning_rate(
            optimiser, optim, warmup_cosine(hyper["first_step"] + step, base=optim.lr, final=optim.final_lr, **plan)
        )
        assert [group["lr"] for group in optimiser.param_groups][: len(rates)] == pytest.approx(rates, rel=1e-12)
        loss = model([images(data[f"view{n}"][step]) for n in (1, 2)])["loss"]
        errors.add(f"step {step}", loss, data["loss"][step])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    cases = [f"{what} {case}" for case in "ab" for what in ("loss",)] + [
        f"grad {case}{n}" for case in "ab" for n in (1, 2)
    ]
    errors.require(1e-9, ["embedding", "projection", *cases, *(f"step {n}" for n in range(len(data["loss"])))])
    weights = {
        "projector": model.projector[6].weight,
        "conv1": model.encoder.get_parameter("stem.conv.weight"),
        "bn1": model.encoder.get_parameter("stem.norm.weight"),
    }
    there = [name for name in weights if name == "projector" or f"final_{name}_weight" in data]
    for name in there:
        after.add(name, weights[name], data[f"final_{name}_weight"])
    after.require(1e-10, there)
    require_schedule(optimiser, optim, data)


def optim_of(recipe: str, hyper: dict[str, Any]) -> Optim:
    """Return the recipe's settings. The settings in the file replace them."""
    optim = table.find(recipe).optim
    lr = hyper.get("learning_rate_weights", hyper.get("base_lr", optim.lr))
    others = {name: hyper[name] for name in ("weight_decay", "momentum") if name in hyper}
    return replace(optim, lr=lr, final_lr=1e-3 * lr, **others)


def require_schedule(optimiser: torch.optim.Optimizer, optim: Optim, data: Any) -> None:
    """Rates of 30 epochs of 40 steps at batch 2048, of all groups."""
    sampler, run = EpochSampler(40 * 2048, 2048, True), replace(optim, epochs=30, batch_size=2048)
    for name in ("schedule_step_weights_biases", "schedule_step_rate"):
        for step, *rates in data[name].tolist() if name in data else ():
            set_learning_rate(optimiser, run, learning_rate(run, int(step), sampler))
            ours = [group["lr"] for group in optimiser.param_groups][: len(rates)]
            assert ours == pytest.approx(rates, rel=1e-9)


def test_barlow_twins_trajectory(barlowtwins_group: Path) -> None:
    require_trajectory(barlowtwins_group, BarlowTwins, "barlowtwins_r50_in1k_1000ep")


def test_vicreg_trajectory(vicreg_group: Path) -> None:
    require_trajectory(vicreg_group, VICReg, "vicreg_r50_in1k_1000ep")


def test_the_losses_of_two_features_by_hand() -> None:
    """Two dimensions, where every term can be written down."""
    z1 = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    z2 = torch.tensor([[0.5, 1.0], [0.0, -1.0], [2.0, 2.0]], dtype=torch.float64)
    c = (z1.T @ z2 / 3).numpy()
    expected = (c[0, 0] - 1) ** 2 + (c[1, 1] - 1) ** 2 + 0.0051 * (c[0, 1] ** 2 + c[1, 0] ** 2)
    barlow = BarlowTwins(nn.Identity(), 2, hidden=2, out=2)
    assert float(barlow.loss(z1, z2)) == pytest.approx(expected, rel=1e-12)
    z1, z2 = 0.3 * z1, 0.3 * z2  # deviations below 1, where the variance counts
    total = 25 * float(((z1 - z2) ** 2).mean())
    for z in (z1.numpy(), z2.numpy()):
        std, cov = np.sqrt(z.var(0, ddof=1) + 1e-4), np.cov(z.T)
        total += 25 * np.maximum(0, 1 - std).mean() / 2 + 2 * cov[0, 1] ** 2 / 2
    vicreg = VICReg(nn.Identity(), 2, hidden=2, out=2)
    assert float(vicreg.loss(z1, z2)) == pytest.approx(total, rel=1e-12)


def trained_outputs(model: BarlowTwins | VICReg) -> torch.Tensor:
    """Outputs of 256 new samples, after a training on samples of which the views share one of 8 directions well.

    The views of the seven others are half noise. One direction has less to lose than all of them, so a loss that only
    asks for invariance sends every output there.
    """
    noise = torch.tensor([0.1] + [1.0] * 7)
    model.projector = nn.Linear(8, 8, bias=False)  # type: ignore[assignment]  # nothing but directions to choose
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        signal = torch.randn(256, 8)
        loss = model([signal + noise * torch.randn(256, 8) for _ in range(2)])["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        outputs: torch.Tensor = model.projector(torch.randn(256, 8))
    return outputs


@pytest.mark.parametrize("lambd", [0.0, 0.0051])
def test_barlow_twins_collapses_in_rank_without_the_terms_off_the_diagonal(lambd: float) -> None:
    """BN keeps the deviation of every output, so only the rank shows it: over three seeds 1.1 to 1.3, and 4.9 to 5.1
    with the paper's weight."""
    torch.manual_seed(0)
    outputs = trained_outputs(BarlowTwins(nn.Identity(), 8, hidden=8, out=8, lambd=lambd))
    spread, rank = output_spread(outputs), effective_rank(outputs)
    assert spread > 0.9
    assert collapsed(spread, rank) is (lambd == 0)
    assert (rank < 1.5) is (lambd == 0)
    assert lambd == 0 or rank > 4


@pytest.mark.parametrize("missing", ["variance", "covariance", ""])
def test_vicreg_collapses_without_its_variance_and_in_rank_without_its_covariance(missing: str) -> None:
    """With 8 outputs the covariance needs a larger weight than with 8192 to be worth as much as the invariance."""
    torch.manual_seed(0)
    weights = {"covariance": 25.0} | ({missing: 0.0} if missing else {})
    model = VICReg(nn.Identity(), 8, hidden=8, out=8, **weights)
    outputs = trained_outputs(model)
    assert vanished(model, outputs) is (missing == "variance")
    if missing != "variance":
        assert collapsed(output_spread(outputs), effective_rank(outputs)) is (missing == "covariance")


def test_moco_v1_is_v2_with_one_linear_another_temperature_view_and_schedule() -> None:
    recipe, sampler = table.find("mocov1_r50_in1k_200ep"), EpochSampler(256, 256, True)
    assert (recipe.method, recipe.objective.temperature, recipe.objective.queue) == ("mocov2", 0.07, 65_536)
    assert [type(layer).__name__ for layer in build_method(recipe).projector] == ["Linear"]
    view = recipe.views.first
    assert (view.jitter_p, view.hue, view.blur_p, view.min_area, recipe.views.second) == (1.0, 0.4, 0.0, 0.2, view)
    rates = [learning_rate(recipe.optim, epoch, sampler) for epoch in (119, 120, 160)]
    assert rates == pytest.approx([0.03, 0.003, 0.0003])


@pytest.mark.parametrize("name", ["barlowtwins_r50_in1k_1000ep", "vicreg_r50_in1k_1000ep", "vicreg_r50_in1k_100ep"])
def test_the_published_recipes_crop_by_pil_s_bicubic(name: str) -> None:
    """BT main.py:290-325 and VR augmentations.py:37-85: BYOL's two views by torchvision, ``interpolation=BICUBIC``."""
    assert table.find(name).views == Views(operations="torchvision-bicubic")


@pytest.mark.parametrize("cls", [BarlowTwins, VICReg])
def test_the_loss_is_not_in_bfloat16(cls: type[BarlowTwins | VICReg]) -> None:
    """A correlation of .95 has two digits in bfloat16, and a sum over 8192 x 8192 entries no more."""
    torch.manual_seed(0)
    model = cls(nn.Identity(), 16, hidden=32, out=64)
    x = torch.randn(32, 16)
    views = [x, x + 0.3 * torch.randn(32, 16)]
    kept: list[torch.Tensor] = []
    model.projector.register_forward_hook(lambda module, inputs, z: kept.append(z))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(views)["loss"]
    norm = nn.BatchNorm1d(64, affine=False) if cls is BarlowTwins else nn.Identity()
    assert [z.dtype for z in kept] == [torch.bfloat16] * 2
    expected = model.loss(*(norm(z.detach().float()) for z in kept))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_biases_learn_as_on_the_readme_s_gpus() -> None:
    """DDP divides the official gradient by the number of GPUs once more: the weights' trust ratio undoes it, the biases
    feel it."""
    recipe = table.find("barlowtwins_r50_in1k_1000ep")
    assert recipe.options["gpus"] == 16  # README.md at 8e8d284: "7 days on 16 v100 GPUs"
    assert "gpus" not in table.find("barlowtwins_r10_cifar10_3ep").options
    views = [torch.randn(12, 6, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    moved, losses = [], []
    for gpus in (1, 16):
        torch.manual_seed(0)
        model = BarlowTwins(nn.Identity(), 6, hidden=8, out=5, gpus=gpus).double()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimiser = build_optimiser(model, replace(recipe.optim, weight_decay=0.0))
        set_learning_rate(optimiser, recipe.optim, 1.0)
        loss = model([view.double() for view in views])["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        moved.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for name, step in moved[0].items():
        part = 16.0 if step.ndim == 1 else 1.0
        torch.testing.assert_close(moved[1][name] * part, step, rtol=1e-9, atol=1e-15)


def test_a_run_that_knew_no_gpus_resumes_with_one() -> None:
    recipe = table.find("barlowtwins_r50_in1k_1000ep")
    earlier = replace(recipe, options={"lambd": 0.0051})
    assert [path for path, _, _ in differences(recipe, from_json(to_json(earlier)))] == ["options"]
    assert not list(differences(override(recipe, ["options.gpus=1"]), from_json(to_json(earlier))))
