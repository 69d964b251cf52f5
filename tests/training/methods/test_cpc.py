"""CPC v2 against a second implementation, which shares no code with it: the official code was never published.

The second one is written from the paper's section 2 and the pseudo-code of its appendix, place by place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from relative_errors import RelativeErrors
from tiny_runs import add_tiny_architecture, tiny
from torch import Tensor, nn

import training.methods.patches as module_of_patches
from training.engine.optim import build_optimiser
from training.methods import StepInfo, build_method
from training.methods.cpc import CPC
from training.methods.masked_context import Direction
from training.methods.patches import change_patches, overlapping_patches
from training.recipes import table
from zoo.errors import UserError

PATCH, STRIDE, SIDE, IMAGES = 8, 4, 4, 3
STEPS = (2, 3)


def model(**options: Any) -> CPC:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    settings = {"patch": PATCH, "stride": STRIDE, "first_step": STEPS[0], "last_step": STEPS[1], "layers": 2}
    settings |= {"drop_colours": 0.0, "clip": 0.005}
    return CPC(nn.Sequential(*layers), 5, out=4, hidden=6, **settings | options).double()


# ---------------------------------------------------------------- the second implementation


def at(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A 1x1 convolution at one place: [C] -> [D]."""
    kernel = weights[f"{name}.weight"]
    return kernel.reshape(len(kernel), -1) @ x + weights[f"{name}.bias"]


def context(weights: dict[str, Tensor], grid: list[list[Tensor]], blocks: int) -> list[list[Tensor]]:
    """pixelCNN() of the pseudo-code for the vectors [row][column] of one image."""
    side = len(grid)
    for block in range(blocks):
        name = f"context.{block}"
        c = [[at(weights, f"{name}.0", v).relu() for v in row] for row in grid]
        kernel, bias = weights[f"{name}.2.weight"], weights[f"{name}.2.bias"]
        beside = [
            [
                bias + sum(kernel[:, :, 0, k] @ row[j + k - 1] for k in range(3) if 0 <= j + k - 1 < side)
                for j in range(side)
            ]
            for row in c
        ]
        kernel, bias = weights[f"{name}.4.weight"], weights[f"{name}.4.bias"]
        above = [
            [
                bias + kernel[:, :, 1, 0] @ beside[i][j] + (kernel[:, :, 0, 0] @ beside[i - 1][j] if i else 0)
                for j in range(side)
            ]
            for i in range(side)
        ]
        grid = [[grid[i][j] + at(weights, f"{name}.6", above[i][j].relu()) for j in range(side)] for i in range(side)]
    return [[v.relu() for v in row] for row in grid]


def turned(grid: list[list[Any]], turn: int) -> list[list[Any]]:
    """The grid seen from another side, so that its rows are read from the top: a quarter turn to the left each."""
    for _ in range(turn):
        grid = [list(column) for column in zip(*grid, strict=True)][::-1]
    return grid


def second_loss(ours: CPC, view: Tensor) -> Tensor:
    """The sum over directions and steps of the mean of -log p(target among all patches of the batch)."""
    places = [(i * STRIDE, j * STRIDE) for i in range(SIDE) for j in range(SIDE)]
    total = torch.zeros((), dtype=view.dtype)
    cut = [[view[n, :, y : y + PATCH, x : x + PATCH] for y, x in places] for n in range(len(view))]
    encoded = [ours.encoder(torch.stack(patches)) for patches in cut]
    grids = [[[vectors[SIDE * i + j] for j in range(SIDE)] for i in range(SIDE)] for vectors in encoded]
    head = dict(ours.projector[0].named_parameters())
    for turn, part in enumerate(ours.directions):
        weights, out = dict(part.named_parameters()), len(head["weight"]) // 4
        w, b = head["weight"][turn * out : (turn + 1) * out], head["bias"][turn * out : (turn + 1) * out]
        seen = [turned(grid, turn) for grid in grids]
        targets = torch.stack([w @ v + b for grid in seen for row in grid for v in row])
        contexts = [context(weights, grid, 2) for grid in seen]
        for number, step in enumerate(STEPS):
            terms = []
            for n, c in enumerate(contexts):
                for i in range(SIDE - step):
                    for j in range(SIDE):
                        scores = targets @ (at(weights, f"predictions.{number}", c[i][j]) * 0.1)
                        right = scores[(n * SIDE + i + step) * SIDE + j]
                        terms.append(torch.log(scores.exp().sum()) - right)
            total = total + torch.stack(terms).mean()
    return total


def test_losses_of_training_steps_are_those_of_the_second_implementation() -> None:
    """With Adam, its decay rates and the clipped gradient written out: every loss to 1e-9 in float64."""
    draws = lambda seed, stream, step, rows, count: np.full((len(rows), count), 0.9)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_of_patches, "uniforms", draws)  # mirrors none: overlapping patches would differ
        compare_steps()


def compare_steps() -> None:
    ours, second = model(), model()
    recipe = table.find("cpc_r50_in1k_200ep").optim
    optimiser = build_optimiser(ours, recipe)
    optimiser.param_groups[0]["lr"] = 0.01
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in second.parameters()]
    errors = RelativeErrors(torch.float64)
    for step in range(4):
        view = torch.randn(IMAGES, 3, 20, 20, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        info = StepInfo(step, 4, 0, 0.0)
        ours.before_step(info)
        loss = ours([view], None, torch.arange(IMAGES))["loss"]
        expected = second_loss(second, view)
        errors.add(f"loss {step}", loss, expected.detach().numpy())
        optimiser.zero_grad()
        loss.backward()
        ours.before_update(info)
        optimiser.step()
        second.zero_grad()
        expected.backward()
        grads = [p.grad for p in second.parameters()]
        norm = float(torch.stack([g.square().sum() for g in grads if g is not None]).sum().sqrt())
        assert norm > 0.005, "the gradient is clipped"
        with torch.no_grad():
            for p, g, (m, v) in zip(second.parameters(), grads, moments, strict=True):
                g = g * 0.005 / (norm + 1e-6)
                m.mul_(0.8).add_(0.2 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                p.sub_(0.01 * (m / (1 - 0.8 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8))
    errors.require(1e-9, [f"loss {step}" for step in range(4)])


# ---------------------------------------------------------------- its parts


def test_a_context_sees_its_row_and_those_above_only() -> None:
    torch.manual_seed(0)
    direction = Direction(5, 6, 4, range(1, 2), 3).double()
    z = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    changed = z.clone()
    changed[:, :, 3:] += 1
    outputs = []
    for grid in (z, changed):
        for block in direction.context:
            grid = grid + block(grid)
        outputs.append(grid)
    assert torch.equal(outputs[0][:, :, :3], outputs[1][:, :, :3])
    assert not torch.allclose(outputs[0][:, :, 3], outputs[1][:, :, 3])


def test_patches_overlap_as_the_paper_s() -> None:
    view = torch.arange(3 * 260 * 260, dtype=torch.float64).view(1, 3, 260, 260)
    options = table.find("cpc_r50_in1k_200ep").options
    patches = overlapping_patches(view, int(options["patch"]), int(options["stride"]))
    assert patches.shape == (6, 6, 1, 3, 80, 80)
    assert torch.equal(patches[2, 5, 0], view[0, :, 72:152, 180:260])


def test_each_patch_is_changed_by_itself_and_by_its_step() -> None:
    patches = torch.rand(5, 5, 40, 3, 4, 4) + 1
    rows = torch.arange(40)
    changed = change_patches(patches, rows, 0.5, seed=1, step=2)
    kept = (changed != 0).flatten(4).all(4).sum(3)  # colours of each patch
    assert set(kept.flatten().tolist()) == {1, 3}
    assert 0.45 < float((kept == 1).double().mean()) < 0.55
    gray = kept == 3
    mirrored = (changed == patches.flip(-1)).flatten(3).all(3)[gray]
    assert 0.45 < float(mirrored.double().mean()) < 0.55
    assert torch.equal((changed == patches).flatten(3).all(3)[gray], ~mirrored)
    assert torch.equal(change_patches(patches, rows, 0.5, seed=1, step=2), changed)
    assert torch.equal(change_patches(patches[:, :, 7:9], rows[7:9], 0.5, seed=1, step=2), changed[:, :, 7:9])
    assert not torch.equal(change_patches(patches, rows, 0.5, seed=1, step=3), changed)
    assert torch.equal((change_patches(patches, rows, 0.0, seed=1, step=2) != 0), torch.ones_like(patches).bool())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "tiny"}, "cpc needs an encoder without BN, which tiny is not: set architecture to one of"),
        ({"options": {"stride": 16}}, "a grid of 2 x 2 patches has no rows 1 to 2 rows ahead"),
        ({"options": {"first_step": 3}}, "has no rows 3 to 2 rows ahead"),
        ({"options": {"patch": 33}}, r"options\.patch=33 is out of range: it must be between 1 and 32"),
        ({"options": {"stride": 0}}, r"options\.stride=0 is out of range"),
        ({"options": {"clip": 0.0}}, r"options\.clip=0\.0 is out of range: it must be above 0"),
        ({"options": {"clip": "much"}}, r"options\.clip=much is no number"),
        ({"options": None}, "cpc needs the option 'first_step': begin with a recipe of that method"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, Any], message: str) -> None:
    add_tiny_architecture()
    recipe = tiny("cpc")
    options = changes.pop("options", {})
    recipe = replace(recipe, options={} if options is None else {**recipe.options, **options}, **changes)
    with pytest.raises(UserError, match=message):
        CPC.check_settings(recipe)


def test_the_published_recipe_has_layer_norm_everywhere_and_a_grid_of_36() -> None:
    recipe = table.find("cpc_r50_in1k_200ep")
    with torch.device("meta"):
        method = CPC.from_recipe(recipe)
    norms = [m for m in method.modules() if "Norm" in type(m).__name__]
    assert len(norms) == 53
    assert all(isinstance(m, nn.GroupNorm) and m.num_groups == 1 for m in norms)
    assert CPC.encoded_pixels(recipe) == 36 * 80**2
    assert recipe.optim.lr * recipe.optim.batch_size / 256 == pytest.approx(4e-4)
    assert build_method(tiny("cpc"), 8).directions[0].steps == range(1, 3)
