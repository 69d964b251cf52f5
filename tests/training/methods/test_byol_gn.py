"""BYOL without BN against its formulas written out, in numpy's words; nothing mixes the images of a batch."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from relative_errors import RelativeErrors
from tiny_runs import tiny
from torch import Tensor, nn

import zoo
from training.engine import checkpoint
from training.methods import BYOLGroupNorm, StepInfo, build_method
from training.methods.byol_gn import standardise_weights, standardised
from training.recipes.config import to_json
from training.results.export import export
from zoo.errors import UserError
from zoo.export.export import export_onnx

GROUPS = 2


def network(seed: int) -> BYOLGroupNorm:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3), nn.GroupNorm(GROUPS, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    encoder = nn.Sequential(*layers)
    model = BYOLGroupNorm(encoder, 4, target_encoder=copy.deepcopy(encoder), hidden=6, out=5)
    model.replace_batch_norm(GROUPS)
    standardise_weights(model)
    return model.double()


def group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[N, C, ...] -> the same: mean and biased variance of each image and group."""
    parts = [
        (part - part.mean()) / (((part - part.mean()) ** 2).mean() + 1e-5).sqrt() for one in x for part in one.chunk(2)
    ]
    shape = (1, -1, *[1] * (x.ndim - 2))
    return torch.stack(parts).reshape(x.shape) * weight.view(shape) + bias.view(shape)


def plain(w: Tensor) -> Tensor:
    rows = [(row - row.mean()) / (((row - row.mean()) ** 2).sum().div(row.numel() - 1).sqrt() + 1e-5) for row in w]
    return torch.stack(rows)


def encoded(p: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    w, size = plain(p[f"{prefix}encoder.0.weight"]), x.shape[-1] - 2
    windows = x.unfold(2, 3, 1).unfold(3, 3, 1)  # [N, 3, s, s, 3, 3]
    maps = torch.einsum("ncijkl,ockl->noij", windows, w) + p[f"{prefix}encoder.0.bias"].view(1, -1, 1, 1)
    assert maps.shape[2:] == (size, size)
    return group_norm(maps, p[f"{prefix}encoder.1.weight"], p[f"{prefix}encoder.1.bias"]).relu().mean((2, 3))


def mlp(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = x @ plain(p[f"{name}.0.weight"]).T + p[f"{name}.0.bias"]
    hidden = group_norm(hidden, p[f"{name}.1.weight"], p[f"{name}.1.bias"]).relu()
    return hidden @ plain(p[f"{name}.3.weight"]).T


def loss_of(p: dict[str, Tensor], views: list[Tensor]) -> Tensor:
    q = [mlp(p, "predictor", mlp(p, "projector", encoded(p, "", x))) for x in views]
    z = [mlp(p, "target_projector", encoded(p, "target_", x)).detach() for x in views]
    unit = [[v / v.norm(dim=1, keepdim=True) for v in side] for side in (q, z)]
    return sum(((unit[0][n] - unit[1][1 - n]) ** 2).sum(1) for n in (0, 1)).mean()  # type: ignore[union-attr]


def test_training_steps_are_the_formulas_written_out() -> None:
    ours, tau, rate = network(0), 0.9, 0.1
    p = {name: value.detach().clone() for name, value in ours.named_parameters()}
    trained = [name for name in p if not name.startswith("target_")]
    optimiser = torch.optim.SGD((v for v in ours.parameters() if v.requires_grad), lr=rate)
    errors = RelativeErrors(torch.float64)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        views = [torch.randn(3, 3, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
        loss = ours(views)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ours.after_step(StepInfo(step, 4, 0, tau))
        for name in trained:
            p[name].requires_grad_()
        expected = loss_of(p, views)
        grads = torch.autograd.grad(expected, [p[name] for name in trained])
        errors.add(f"loss {step}", loss, expected.detach().numpy())
        for name, grad in zip(trained, grads, strict=True):
            p[name] = p[name].detach() - rate * grad
        for name in p:
            if name.startswith("target_"):
                p[name] = tau * p[name] + (1 - tau) * p[name.removeprefix("target_")]
    errors.require(1e-9, [f"loss {step}" for step in range(4)])


def test_no_image_changes_another_s_outputs() -> None:
    """In train mode, with the network that a recipe builds; BYOL's own does the opposite."""
    x = torch.randn(4, 3, 32, 32)
    for method, same in (("byol_gn", True), ("byol", False)):
        model = build_method(tiny(method)).train()
        outputs = [model.predictor(model.projector(model.encoder(x[:n])))[:2] for n in (2, 4)]
        assert torch.allclose(*outputs, atol=1e-5) is same


def test_an_exported_encoder_gives_the_trained_network_s_features(tmp_path: Path) -> None:
    photos = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))[:2]
    recipe = tiny("byol_gn")
    model = build_method(recipe, 8).eval()
    state: Any = {"recipe": to_json(recipe), "data": {"name": "photos", "images": 8}, "method": model.state_dict()}
    checkpoint.save(tmp_path, 1, state | {"step": 1, "total_steps": 1, "seconds": 1.0, "hardware": ["cpu"]})
    export(tmp_path, tmp_path / "e.safetensors")
    embedder = zoo.load(tmp_path / "e.safetensors", device="cpu")
    pixels = torch.stack([embedder.transform(Image.open(photo)) for photo in photos])
    with torch.no_grad():
        np.testing.assert_allclose(embedder(photos), model.encoder(pixels).numpy(), rtol=1e-4, atol=1e-5)
    export_onnx(embedder, tmp_path / "e.onnx")  # which compares it with torch, and refuses what differs
    weight = model.encoder.get_parameter("conv1.weight")
    assert not torch.allclose(weight, standardised(weight), atol=1e-2), "the state keeps the trained weights"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "tiny"}, "byol_gn needs an encoder without BN, which tiny is not"),
        ({"options": {}}, "byol_gn needs the option 'groups'"),
        ({"options": {"groups": 3}}, r"heads\.hidden=16 is no multiple of options\.groups"),
        ({"padding": "same"}, "set padding=symmetric"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BYOLGroupNorm.check_settings(replace(tiny("byol_gn"), **changes))
