"""MoCo v3 against outputs of the official code, and against its formulas written out (facebookresearch/moco-v3)."""

from __future__ import annotations

import copy
from itertools import pairwise
from math import cos, pi
from pathlib import Path

import numpy as np
import pytest
import torch
from bank_checks import below, group_files, images, trunk
from relative_errors import RelativeErrors
from torch import Tensor, nn

from training.data.sampler import EpochSampler
from training.engine import schedules
from training.engine.optim import build_optimiser, set_learning_rate
from training.methods import MoCoV3, StepInfo
from training.recipes import table
from training.recipes.config import Optim

STEPS = 5


def encoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def official_mlp(sizes: list[int], last_bn: bool) -> nn.Sequential:
    """builder.py:36-54: bias-free Linears, BN and ReLU between them, at the end perhaps BN without gamma and beta."""
    layers: list[nn.Module] = []
    for n, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b, bias=False))
        if n < len(sizes) - 2:
            layers += [nn.BatchNorm1d(b), nn.ReLU()]
        elif last_bn:
            layers.append(nn.BatchNorm1d(b, affine=False))
    return nn.Sequential(*layers)


def official_loss(q: Tensor, k: Tensor, T: float) -> Tensor:
    """builder.py:62-73, one process, in numpy's words: 2 T mean(log sum exp - right)."""
    q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
    logits = torch.stack([torch.stack([(a * b).sum() for b in k]) for a in q]) / T
    return 2 * T * torch.stack([torch.log(row.exp().sum()) - row[n] for n, row in enumerate(logits)]).mean()


def test_training_steps_are_the_official_code_s() -> None:
    """Schedules, key network, both directions and LARS: losses, and the networks afterwards, to 1e-9 in float64."""
    torch.manual_seed(0)
    ours = MoCoV3(encoder(), 6, hidden=8, out=4, temperature=0.7).double()
    base, key = ((nn.Sequential(encoder(), official_mlp([6, 8, 4], True))).double() for _ in range(2))
    predictor = official_mlp([4, 8, 4], False).double()
    for network in (base, key):
        network[0].load_state_dict(ours.encoder.state_dict())
        network[1].load_state_dict(ours.projector.state_dict())
    predictor.load_state_dict(ours.predictor.state_dict())
    config = Optim("lars", 0.3, 8, 4, warmup_epochs=1, weight_decay=1.5e-2, tau=0.9)
    sampler, optimiser = EpochSampler(16, 8, True), build_optimiser(ours, config)
    total, per_epoch = sampler.steps(4), 2
    trained = [*base.parameters(), *predictor.parameters()]
    momenta = [torch.zeros_like(p) for p in trained]
    errors = RelativeErrors(torch.float64)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x1, x2 = (torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
        # ours
        info = StepInfo(step, total, step // per_epoch, schedules.tau(config, step, total))
        set_learning_rate(optimiser, config, schedules.learning_rate(config, step, sampler))
        ours.before_step(info)
        loss = ours([x1, x2])["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ours.after_step(info)
        # the official code's, main_moco.py:420-434 and optimizer.py
        epoch = step / per_epoch
        rate = 0.3 * 8 / 256
        rate *= epoch / 1 if epoch < 1 else 0.5 * (1 + cos(pi * (epoch - 1) / 3))
        m = 1 - 0.5 * (1 + cos(pi * epoch / 4)) * (1 - 0.9)
        q1, q2 = predictor(base(x1)), predictor(base(x2))
        with torch.no_grad():
            for p, k in zip(base.parameters(), key.parameters(), strict=True):
                k.copy_(k * m + p * (1 - m))
            k1, k2 = key(x1), key(x2)
        expected = official_loss(q1, k2, 0.7) + official_loss(q2, k1, 0.7)
        errors.add(f"loss {step}", loss, expected.detach().numpy())
        grads = torch.autograd.grad(expected, trained)
        with torch.no_grad():
            for p, g, mu in zip(trained, grads, momenta, strict=True):
                if p.ndim > 1:
                    g = g + 1.5e-2 * p
                    g = g * 1e-3 * p.norm() / g.norm()
                mu.mul_(0.9).add_(g)
                p.sub_(rate * mu)
    errors.require(1e-9, [f"loss {step}" for step in range(STEPS)])
    parts = {
        "encoder": (ours.encoder, base[0]),
        "projector": (ours.projector, base[1]),
        "predictor": (ours.predictor, predictor),
        "key encoder": (ours.key_encoder, key[0]),
        "key projector": (ours.key_projector, key[1]),
    }
    after = RelativeErrors(torch.float64)
    for name, (one, other) in parts.items():
        vectors = [torch.cat([v.flatten().double() for v in part.state_dict().values()]) for part in (one, other)]
        after.add(name, vectors[0], vectors[1].numpy())
    after.require(1e-9, list(parts))


def test_trajectory(mocov3_group: Path) -> None:
    """Rates, m, and the loss of each step to 1e-9; four weights after the last step, the key network's too."""
    hyper, data, init = group_files(mocov3_group)
    state = below(torch.load(init, weights_only=True)["state_dict"], "module.")
    encoder, dim = trunk(below(state, "base_encoder."))
    model = MoCoV3(encoder, dim, hidden=hyper["mlp_dim"], out=hyper["dim"], temperature=hyper["temperature"]).double()
    model.projector.load_state_dict(below(state, "base_encoder.fc."))
    model.predictor.load_state_dict(below(state, "predictor."))
    model.key_projector.load_state_dict(below(state, "momentum_encoder.fc."))
    config = Optim(
        "lars",
        hyper["base_learning_rate"],
        hyper["batch_size"],
        hyper["epochs"],
        warmup_epochs=hyper["warmup_epochs"],
        weight_decay=hyper["weight_decay"],
        momentum=hyper["momentum"],
        tau=hyper["moco_m"],
    )
    sampler = EpochSampler(hyper["batch_size"] * hyper["steps_of_an_epoch"], hyper["batch_size"], True)
    optimiser, total = build_optimiser(model, config), sampler.steps(hyper["epochs"])
    errors, after = RelativeErrors(torch.float64), RelativeErrors(torch.float64)
    for step, expected in enumerate(data["loss"]):
        info = StepInfo(step, total, step // hyper["steps_of_an_epoch"], schedules.tau(config, step, total))
        rate = schedules.learning_rate(config, step, sampler)
        assert (rate, info.tau) == pytest.approx((data["learning_rate"][step], data["moco_m"][step]), rel=1e-12)
        set_learning_rate(optimiser, config, rate)
        model.before_step(info)
        loss = model([images(data[f"view{n}"][step]) for n in (1, 2)])["loss"]
        errors.add(f"step {step}", loss, np.asarray(expected))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.after_step(info)
    errors.require(1e-9, [f"step {step}" for step in range(len(data["loss"]))])
    parts = {"projector": model.projector, "predictor": model.predictor, "key_projector": model.key_projector}
    for name, part in parts.items():
        after.add(name, part[3].weight, data[f"final_{name}"])
    after.add("stem", next(model.encoder.parameters()), data["final_stem"])
    after.require(1e-9, [*parts, "stem"])


def test_no_gradient_reaches_the_key_network() -> None:
    torch.manual_seed(0)
    model = MoCoV3(encoder(), 6, hidden=8, out=4)
    model([torch.randn(4, 3, 6, 6), torch.randn(4, 3, 6, 6)])["loss"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {name for name, _ in model.named_parameters() if name.startswith("key_")}


@pytest.mark.parametrize(
    ("epochs", "expected"), [(100, (0.6, 1e-6, 0.99)), (300, (0.3, 1e-6, 0.99)), (1000, (0.3, 1.5e-6, 0.996))]
)
def test_published_recipes(epochs: int, expected: tuple[float, float, float]) -> None:
    """CONFIG.md:10-47, and the defaults of main_moco.py:65-118."""
    recipe = table.find(f"mocov3_r50_in1k_{epochs}ep")
    optim, views = recipe.optim, recipe.views
    assert (optim.lr, optim.weight_decay, optim.tau) == expected
    assert (optim.name, optim.batch_size, optim.momentum, optim.warmup_epochs) == ("lars", 4096, 0.9, 10)
    assert recipe.zero_init_residual
    assert views.second is not None
    assert (views.first.min_area, views.first.blur_p, views.first.solarize_p) == (0.2, 1.0, 0.0)
    assert (views.second.min_area, views.second.blur_p, views.second.solarize_p) == (0.2, 0.1, 0.2)
    with torch.device("meta"):
        built = MoCoV3.from_recipe(recipe)
    shapes = [tuple(layer.weight.shape) for layer in built.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(4096, 2048), (256, 4096), (4096, 256), (256, 4096), (4096, 2048), (256, 4096)]
    assert built.T == 1.0


def test_the_loss_counts_every_other_image_as_a_negative() -> None:
    """Equal keys make the loss 2 T log N for each direction."""
    model = MoCoV3(nn.Identity(), 4, hidden=8, out=4, temperature=0.5)
    q, k = torch.randn(6, 4), torch.ones(6, 4)
    assert float(model.contrast(q, k)) == pytest.approx(2 * 0.5 * np.log(6), rel=1e-6)
    assert float(model.contrast(k, copy.copy(k))) == pytest.approx(np.log(6), rel=1e-6)
