"""A method without arguments is the paper's: as its published recipe builds it, and as the paper states the sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from training.methods import BYOL, METHODS, Method, MoCoV2, SimCLR, SimSiam, Supervised, SwAV
from training.recipes import table

DIM = 2048  # of a ResNet-50
HEADS = {  # heads' weights, out x in; the docstrings of the methods name the papers
    BYOL: {(4096, 2048): 2, (256, 4096): 3, (4096, 256): 1},  # projector, target projector, predictor
    SimSiam: {(2048, 2048): 3, (512, 2048): 1, (2048, 512): 1},
    SimCLR: {(2048, 2048): 1, (128, 2048): 1},
    MoCoV2: {(2048, 2048): 2, (128, 2048): 2},  # and those of the key network
    SwAV: {(2048, 2048): 1, (128, 2048): 1, (3000, 128): 1},
}
SETTINGS: dict[type[Method], dict[str, Any]] = {
    BYOL: {"beta": 0.0, "temperature": 0.1},
    SimSiam: {"stop_gradient": True},
    SimCLR: {"temperature": 0.1},
    MoCoV2: {"m": 0.999, "T": 0.2, "symmetric": False, "bn_parts": 1, "seed": 0},
    SwAV: {"temperature": 0.1, "epsilon": 0.05, "iterations": 3, "queue_from_epoch": 15, "frozen_steps": 313},
}
RECIPES = {
    BYOL: "byol_r50_in1k_1000ep",
    SimSiam: "simsiam_r50_in1k_100ep",
    SimCLR: "simclr_r50_in1k_1000ep",
    MoCoV2: "mocov2_r50_in1k_800ep",
    SwAV: "swav_r50_in1k_800ep",
}


def head_tensors(method: Method) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in method.state_dict().items() if "encoder" not in k}


def default(kind: type[Method]) -> Method:
    with torch.device("meta"):  # sizes only
        return kind(nn.Identity(), DIM)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", HEADS)
def test_the_defaults_are_the_papers(kind: type[Method]) -> None:
    method = default(kind)
    shapes = [tuple(layer.weight.shape) for layer in method.modules() if isinstance(layer, nn.Linear)]
    assert {shape: shapes.count(shape) for shape in shapes} == HEADS[kind]
    assert {name: getattr(method, name) for name in SETTINGS[kind]} == SETTINGS[kind]
    queue = {MoCoV2: (128, 65_536), SwAV: (2, 0, 128)}.get(kind)
    assert (tuple(method.queue.shape) if queue else None) == queue  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", HEADS)
def test_the_published_recipe_builds_the_defaults(kind: type[Method]) -> None:
    recipe = replace(table.find(RECIPES[kind]), initialiser="timm")  # shapes only: nothing can be drawn on "meta"
    assert METHODS[recipe.method] is kind
    with torch.device("meta"):
        built = kind.from_recipe(recipe)
    assert head_tensors(built) == head_tensors(default(kind))
    unused = {"queue_from_epoch": 0} if kind is SwAV else {}  # not used: the recipe has no queue
    assert {name: getattr(built, name) for name in SETTINGS[kind]} == SETTINGS[kind] | unused
    assert sum(p.numel() for p in built.encoder.parameters()) == 23_508_032


def test_bn_is_synchronised_where_the_paper_synchronises_it() -> None:
    """Not in MoCo, which shuffles the keys instead, nor in supervised training on 8 GPUs."""
    found = {name: kind.synchronised_bn for name, kind in METHODS.items()}
    together = ("byol", "simsiam", "simclr", "swav", "barlowtwins", "vicreg", "mocov3", "byol_gn")
    apart = ("mocov2", "supervised", "instdisc", "cmc", "pirl", "infomin", "localagg", "cpc", "densecl")
    assert found == dict.fromkeys(together, True) | dict.fromkeys(apart, False)


def test_the_supervised_recipe_has_a_thousand_classes() -> None:
    with torch.device("meta"):
        method = Supervised.from_recipe(table.find("supervised_r50_in1k_90ep"))
    assert tuple(method.classifier.weight.shape) == (1000, DIM)


def test_simsiam_s_projector_keeps_the_encoder_s_width_unless_told() -> None:
    recipe = replace(table.find("simsiam_r50_in1k_100ep"), architecture="r18")
    for hidden, width in ((0, 512), (96, 96)):
        with torch.device("meta"):
            method = SimSiam.from_recipe(replace(recipe, heads=replace(recipe.heads, projector_hidden=hidden)))
        assert head_tensors(method)["projector.0.weight"] == (width, 512)


@pytest.mark.parametrize("kind", HEADS)
def test_only_what_gradients_train_asks_for_them(kind: type[Method]) -> None:
    """DDP waits for the gradient of every parameter that asks for one, and weight decay would move the others."""
    torch.manual_seed(0)
    method = kind(nn.Linear(6, 6), 6)  # type: ignore[call-arg]
    views = [torch.randn(4, 6), torch.randn(4, 6)]
    sum(method(views, torch.tensor([0, 1, 0, 1])).values()).backward()
    asks = {name for name, p in method.named_parameters() if p.requires_grad}
    assert asks == {name for name, p in method.named_parameters() if p.grad is not None}
    assert not [name for name in asks if name.startswith(("target_", "key_"))]
