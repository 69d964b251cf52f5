"""InfoMin against PyContrast's outputs, and against its definition."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bank_checks import below, group_files, images, read_official, train_steps, trunk
from relative_errors import RelativeErrors
from tiny_runs import tiny
from torch import nn

from training.methods import StepInfo
from training.methods.infomin import InfoMin
from training.methods.jigsaw import cut_patches, draw_puzzle
from training.methods.similarity import unit
from zoo.errors import UserError


def test_queue_against_pycontrast(pycontrast_ops: Path) -> None:
    """Both terms with the same key, gradients, and the queue, whose keys enter in the shuffled order."""
    data, h = np.load(pycontrast_ops), json.loads(pycontrast_ops.with_suffix(".json").read_text())
    dim = h["dim"]
    model = InfoMin(nn.Identity(), dim, out=dim, queue=h["queue"], temperature=h["queue_temperature"]).double()
    model.queue.copy_(torch.tensor(data["queue_memory0"]).t())
    errors, names = RelativeErrors(torch.float64), []
    for step in range(h["steps"]):
        k = torch.tensor(data["queue_k"][step])
        for kind in ("", "_jigsaw"):
            q = torch.tensor(data[f"queue_q{kind}"][step]).requires_grad_()
            term = model._term(q, k)
            (0.5 * term).backward()
            names += [f"loss{kind} {step}", f"grad{kind} {step}"]
            errors.add(names[-2], term, data[f"queue_loss{kind}"][step])
            errors.add(names[-1], q.grad, data[f"queue_grad{kind}"][step])
        model._keys.append(k[torch.tensor(data["queue_shuffle"][step])])
        model.after_step(StepInfo(step, h["steps"], 0, 0.0))
        names.append(f"queue {step}")
        errors.add(names[-1], model.queue.t().contiguous(), data["queue_memory"][step])
    errors.require(1e-9, names)
    assert int(model.queue_pointer) == int(data["queue_pointer"])


def test_trajectory(infomin_group: Path) -> None:
    hyper, data, init = group_files(infomin_group)
    loaded = read_official(init)
    state, key = below(loaded["model"], "module."), loaded["model_ema"]
    encoder, dim = trunk(below(state, "encoder."))
    model = InfoMin(
        encoder,
        dim,
        out=hyper["dim"],
        queue=hyper["negatives"],
        momentum=hyper["key_momentum"],
        temperature=hyper["temperature"],
        beta=hyper["beta"],
    )
    model.projector.load_state_dict(below(state, "head."))
    model.jigsaw.load_state_dict(below(state, "head_jig."))
    model.key_encoder.load_state_dict(trunk(below(key, "encoder."))[0].state_dict())
    model.key_projector.load_state_dict(below(key, "head."))
    model.double()
    model.queue.copy_(loaded["contrast"]["memory"].t())
    errors, after = RelativeErrors(torch.float64), RelativeErrors(torch.float64)
    model.eval()
    with torch.no_grad():
        embedding = model.encoder(images(data["eval_image"]))
        errors.add("embedding", embedding, data["eval_embedding"])
        errors.add("projection", unit(model.projector(embedding)), data["eval_projection"])
    orders, shuffles = iter(torch.tensor(data["permutations"])), iter(torch.tensor(data["shuffle"]))
    model.puzzle = lambda crop, rows: (crop, next(orders))  # type: ignore[method-assign]
    enqueue = model.after_step

    def after_step(info: StepInfo) -> None:
        model._keys[0] = model._keys[0][next(shuffles)]
        enqueue(info)

    model.after_step = after_step  # type: ignore[method-assign]
    inputs = [[images(data[n][step]) for n in ("view", "view_key", "patches")] for step in range(len(data["loss"]))]
    for step, losses in train_steps(model, hyper, data, inputs):
        errors.add(f"loss {step}", losses["loss"] + losses["loss_patches"], np.asarray(data["loss"][step]))
        image, patches = data["losses"][step] * (1 - hyper["beta"], hyper["beta"])
        errors.add(f"image {step}", losses["loss"], image)
        errors.add(f"patches {step}", losses["loss_patches"], patches)
    steps = range(len(inputs))
    errors.require(
        1e-9, ["embedding", "projection", *(f"{w} {n}" for w in ("loss", "image", "patches") for n in steps)]
    )
    after.add("queue", model.queue.t().contiguous(), data["memory_after"])
    after.add("head", model.projector[0].weight[:4], data["final_head_0_weight"])
    after.add("patch head", model.jigsaw.fc2.weight[:4], data["final_head_jig_fc2_weight"])
    after.add("key head", model.key_projector[0].weight[:4], data["final_ema_head_0_weight"])
    after.require(1e-7, ["queue", "head", "patch head", "key head"])


def test_both_terms_meet_one_key_and_the_key_network_follows_after_the_step() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 6))
    model = InfoMin(encoder, 6, out=4, queue=10, momentum=0.9, beta=0.25).double()
    views = [torch.randn(3, 3, side, side).double() for side in (16, 16, 255)]
    rows, queue = torch.tensor([1, 7, 4]), model.queue.clone()
    with torch.no_grad():
        model.encoder[2].weight.mul_(2)  # the key network starts apart
    key_before = model.key_encoder[2].weight.clone()
    model.before_step(StepInfo(5, 10, 0, 0.0))
    assert torch.equal(model.key_encoder[2].weight, key_before)  # not before the step, unlike MoCo's code
    losses = model(views, None, rows)
    offsets, order = draw_puzzle(rows, 22, seed=0, step=5)
    per_patch = model.jigsaw.fc1(encoder(cut_patches(views[2], offsets).flatten(0, 1))).view(3, 9, 4)
    joined = torch.stack([torch.cat([per_patch[n, p] for p in order[n]]) for n in range(3)])
    k = unit(model.key_projector(model.key_encoder(views[1]))).numpy()
    features = {"loss": model.projector(encoder(views[0])), "loss_patches": model.jigsaw.fc2(joined)}
    for name, weight in (("loss", 0.75), ("loss_patches", 0.25)):
        q = unit(features[name]).detach().numpy()
        s = np.concatenate([(q * k).sum(1, keepdims=True), q @ queue.numpy()], 1) / 0.15
        expected = -weight * np.mean(s[:, 0] - np.log(np.exp(s).sum(1)))
        assert float(losses[name].detach()) == pytest.approx(expected, rel=1e-9)
    model.after_step(StepInfo(5, 10, 0, 0.0))
    assert torch.allclose(model.key_encoder[2].weight, 0.9 * key_before + 0.1 * model.encoder[2].weight)
    assert np.allclose(model.queue[:, :3].t().numpy(), k)


@pytest.mark.parametrize("layers", [1, 2])
def test_both_heads_have_the_layers_of_the_recipe(layers: int) -> None:
    """PyContrast's ``--head`` is of both (networks/build_backbone.py)."""
    recipe = tiny("infomin")
    model = InfoMin.from_recipe(replace(recipe, heads=replace(recipe.heads, mlp_layers=layers)))
    assert [len([m for m in part if isinstance(m, nn.Linear)]) for part in (model.projector, model.jigsaw.fc1)] == [
        layers,
        layers,
    ]


def test_a_symmetric_loss_is_refused() -> None:
    """PyContrast has one direction, and the setting changed nothing."""
    recipe = tiny("infomin")
    InfoMin.check_settings(recipe)
    with pytest.raises(UserError, match="infomin has one direction only"):
        InfoMin.check_settings(replace(recipe, objective=replace(recipe.objective, symmetric=True)))
