"""DenseCL against outputs of the official code, and against its formulas written out (WXinlong/DenseCL)."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bank_checks import below, group_files, images, train_steps, trunk
from relative_errors import RelativeErrors
from tiny_runs import add_tiny_architecture, tiny
from torch import Tensor, nn

from training.methods import DenseCL, MoCoV2, StepInfo, build_method, densecl
from training.recipes import table
from zoo.errors import UserError
from zoo.models.feature_map import last_map
from zoo.models.registry import ARCHITECTURES
from zoo.models.resnet import build_encoder

STEPS, IMAGES, QUEUE = 4, 4, 12


def network() -> Any:
    add_tiny_architecture()
    torch.manual_seed(1)
    return build_encoder(ARCHITECTURES["tiny10"])


def neck(model: nn.ModuleDict, view: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """densecl.py:148-161 and necks.py: q NxC, grid NxCxS, mean NxC and backbone NxDxS, all of unit length."""
    x = model["backbone"].forward_features(view)
    q = model["mlp"](x.mean((2, 3)))
    grid = model["mlp2"](x)
    q2 = grid.mean((2, 3))
    unit = nn.functional.normalize
    return unit(q, dim=1), unit(grid.flatten(2), dim=1), unit(q2, dim=1), unit(x.flatten(2), dim=1)


def test_training_steps_are_the_official_code_s() -> None:
    """Both losses, both queues and the key network of some steps, to 1e-9 in float64."""
    weight, T, m, rate = 0.3, 0.2, 0.9, 0.05
    ours = DenseCL(network(), 16, dense_weight=weight, out=6, queue=QUEUE, momentum=m, temperature=T).double()
    parts = {"backbone": ours.encoder, "mlp": ours.projector, "mlp2": ours.dense}
    query = nn.ModuleDict({name: copy.deepcopy(part) for name, part in parts.items()}).double()
    key = copy.deepcopy(query).requires_grad_(False)
    queues = [ours.queue.clone(), ours.queue_dense.clone()]
    optimiser = torch.optim.SGD((p for p in ours.parameters() if p.requires_grad), lr=rate)
    errors, pointer = RelativeErrors(torch.float64), 0
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x1, x2 = (torch.randn(IMAGES, 3, 96, 96, generator=generator, dtype=torch.float64) for _ in range(2))
        info = StepInfo(step, STEPS, 0, 0.0)
        ours.before_step(info)
        losses = ours([x1, x2])
        optimiser.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimiser.step()
        ours.after_step(info)
        # the official code's
        with torch.no_grad():
            for p, k in zip(query.parameters(), key.parameters(), strict=True):
                k.copy_(k * m + p * (1 - m))
        q, q_grid, _, q_b = neck(query, x1)
        k, k_grid, k2, k_b = neck(key, x2)
        terms = [[], []]  # type: list[list[Tensor]]
        for n in range(IMAGES):
            terms[0].append(cross_entropy(q[n], k[n], queues[0], T))
            for place in range(q_grid.shape[2]):
                alike = [float((q_b[n, :, place].detach() * k_b[n, :, other]).sum()) for other in range(k_b.shape[2])]
                match = alike.index(max(alike))
                terms[1].append(cross_entropy(q_grid[n, :, place], k_grid[n, :, match], queues[1], T))
        single, dense = (torch.stack(values).mean() for values in terms)
        errors.add(f"single {step}", losses["loss"], (single * (1 - weight)).detach().numpy())
        errors.add(f"dense {step}", losses["loss_dense"], (dense * weight).detach().numpy())
        query.zero_grad()
        (single * (1 - weight) + dense * weight).backward()
        with torch.no_grad():
            for p in query.parameters():
                p.sub_(rate * p.grad)
            for queue, keys in zip(queues, (k, k2), strict=True):
                for n in range(IMAGES):
                    queue[:, (pointer + n) % QUEUE] = keys[n]
        pointer = (pointer + IMAGES) % QUEUE
    for name, found, expected in (("queue", ours.queue, queues[0]), ("queue_dense", ours.queue_dense, queues[1])):
        errors.add(name, found, expected.numpy())
    vectors = [
        torch.cat([p.flatten() for part in network.values() for p in part.parameters()])
        for network in ({"e": ours.key_encoder, "p": ours.key_projector, "d": ours.key_dense}, key)
    ]
    errors.add("key network", vectors[0], vectors[1].numpy())
    names = [f"{what} {step}" for what in ("single", "dense") for step in range(STEPS)]
    errors.require(1e-9, [*names, "queue", "queue_dense", "key network"])


def test_trajectory(densecl_group: Path) -> None:
    """Both losses of each step to 1e-9; both queues, a key weight and the stem after the last step."""
    hyper, data, init = group_files(densecl_group)
    state = torch.load(init, weights_only=True)["state_dict"]
    encoder, dim = trunk(below(state, "encoder_q.0."))
    model = DenseCL(
        encoder,
        dim,
        dense_weight=hyper["loss_lambda"],
        out=hyper["dim"],
        queue=hyper["queue"],
        momentum=hyper["key_momentum"],
        temperature=hyper["temperature"],
    ).double()
    model.projector.load_state_dict(below(state, "encoder_q.1.mlp."))
    model.dense.load_state_dict(below(state, "encoder_q.1.mlp2."))
    model.key_projector.load_state_dict(below(state, "encoder_k.1.mlp."))
    model.key_dense.load_state_dict(below(state, "encoder_k.1.mlp2."))
    model.queue.copy_(state["queue"])
    model.queue_dense.copy_(state["queue2"])
    errors = RelativeErrors(torch.float64)
    views = [[images(data[name][step]) for name in ("view_query", "view_key")] for step in range(len(data["loss"]))]
    for step, losses in train_steps(model, hyper, data, views):
        errors.add(f"single {step}", losses["loss"], np.asarray(data["loss"][step]))
        errors.add(f"dense {step}", losses["loss_dense"], np.asarray(data["loss_dense"][step]))
    errors.add("queue", model.queue, data["queue_after"])
    errors.add("queue_dense", model.queue_dense, data["queue_dense_after"])
    errors.add("key dense", model.key_dense.get_parameter("2.weight"), data["final_key_dense"])
    errors.add("stem", next(model.encoder.parameters()), data["final_stem"])
    names = [f"{what} {step}" for what in ("single", "dense") for step in range(len(views))]
    errors.require(1e-9, [*names, "queue", "queue_dense", "key dense", "stem"])
    assert int(model.queue_pointer) == int(data["queue_pointer"])


def cross_entropy(q: Tensor, k: Tensor, queue: Tensor, T: float) -> Tensor:
    logits = torch.cat([(q * k).sum()[None], q @ queue]) / T
    return torch.log(logits.exp().sum()) - logits[0]


def test_the_map_is_what_the_encoder_pools() -> None:
    for name in ("r10", "r50x2", "r50_ln"):
        torch.manual_seed(0)
        with torch.device("meta" if name == "r50x2" else "cpu"):
            encoder, images = build_encoder(ARCHITECTURES[name]).eval(), torch.randn(2, 3, 64, 64)
        pooled, found = last_map(encoder, images)
        assert found.shape == (2, ARCHITECTURES[name].num_features, 2, 2)
        if name != "r50x2":
            torch.testing.assert_close(pooled, found.mean((2, 3)))
            assert len(encoder.get_submodule("global_pool")._forward_pre_hooks) == 0
    with pytest.raises(UserError, match="need an encoder with one global pooling"):
        last_map(nn.Identity(), torch.zeros(1, 3, 8, 8))


def test_the_published_recipe() -> None:
    """configs/selfsup/densecl/densecl_imagenet_200ep.py."""
    recipe = table.find("densecl_r50_in1k_200ep")
    with torch.device("meta"):
        model = DenseCL.from_recipe(recipe)
    assert (model.T, model.m, model.dense_weight) == (0.2, 0.999, 0.5)
    assert model.queue.shape == model.queue_dense.shape == (128, 65_536)
    assert [tuple(layer.weight.shape[:2]) for layer in model.dense if hasattr(layer, "weight")] == [
        (2048, 2048),
        (128, 2048),
    ]
    optim = recipe.optim
    assert (optim.name, optim.lr, optim.batch_size, optim.epochs) == ("sgd", 0.03, 256, 200)
    assert (optim.weight_decay, optim.schedule, optim.final_lr) == (1e-4, "epoch", 0.0)
    view = recipe.views.first
    assert (view.min_area, view.jitter_p, view.brightness, view.hue) == (0.2, 0.8, 0.4, 0.1)
    assert (view.grayscale_p, view.blur_p, recipe.views.second) == (0.2, 0.5, view)


@pytest.mark.parametrize(
    ("options", "symmetric", "message"),
    [
        ({}, False, "densecl needs the option 'dense_weight'"),
        ({"dense_weight": 1.5}, False, r"options\.dense_weight=1\.5 is out of range: it must be between 0 and 1"),
        ({"dense_weight": 0.5}, True, "densecl has one direction only"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict[str, float], symmetric: bool, message: str) -> None:
    from dataclasses import replace

    recipe = tiny("densecl")
    recipe = replace(recipe, options=options, objective=replace(recipe.objective, symmetric=symmetric))
    with pytest.raises(UserError, match=message):
        DenseCL.check_settings(recipe)


@pytest.mark.parametrize(("stem", "size"), [("imagenet", 24), ("imagenet", 64), ("cifar", 24), ("cifar", 32)])
def test_the_logits_of_all_places_are_foreseen(stem: str, size: int) -> None:
    """An image has as many dense queries as its map has places."""
    recipe = tiny("densecl")
    recipe = replace(recipe, stem=stem, views=replace(recipe.views, size=size))
    _, maps = last_map(build_method(recipe).encoder, torch.zeros(2, 3, size, size))
    foreseen, logits = DenseCL.more_memory(recipe, 8)[1], MoCoV2.more_memory(recipe, 8)[1]
    assert foreseen == logits * (1 + maps[0, 0].numel())


def test_the_monitors_see_the_pooled_features() -> None:
    model = build_method(tiny("densecl"))
    seen: list[tuple[int, ...]] = []
    model.encoder.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    model([torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)])
    assert seen == [(2, 16)]


def test_the_places_are_matched_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosines of .9996 and .9988 are one number in bfloat16, and the first place would win."""
    angles = torch.tensor([0.05, 0.03])
    key = torch.stack([angles.cos(), angles.sin()])[None, :, None]  # 1x2x1x2
    query = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    monkeypatch.setattr(densecl, "last_map", lambda encoder, view: (view.mean((2, 3)), view))
    positives: list[Tensor] = []
    original = densecl.info_nce

    def info_nce(q: Tensor, k: Tensor, *others: Any) -> Tensor:
        positives.append(k)
        return original(q, k, *others)

    monkeypatch.setattr(densecl, "info_nce", info_nce)
    model = DenseCL(nn.Identity(), 2, out=2, queue=4, projector_layers=1)
    model.dense = model.key_dense = nn.Identity()  # type: ignore[assignment]
    with torch.autocast("cpu", torch.bfloat16):
        model([query, key])
    torch.testing.assert_close(positives[1], key[:, :, 0, 1].expand(2, 2))
