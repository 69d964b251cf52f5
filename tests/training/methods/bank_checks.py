"""What the tests of methods with a memory bank share: the official codes' files, and steps from given draws."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import training.engine.optim
from training.data import augment
from training.methods import Method, StepInfo
from training.recipes.config import Views
from zoo.convert.common import recognise
from zoo.models.resnet import build_encoder


def images(array: np.ndarray) -> Tensor:
    """[.., H, W, 3] of bytes -> normalised [.., 3, H, W]."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (augment.MEAN, Views().std))
    return (torch.tensor(array, dtype=torch.float64).movedim(-1, -3) / 255 - mean) / std


class _Placeholder:
    """Stands for a class that no reader of the checkpoint has."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Placeholder if module.startswith("lib.") else super().find_class(module, name)


def read_official(path: Path) -> dict[str, Any]:
    """The checkpoint of an official code that pickled objects of its own; the goldens are trusted."""
    stand_in: Any = SimpleNamespace(__name__="pickle", Unpickler=_Unpickler, load=pickle.load)
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False, pickle_module=stand_in)
    return loaded


def group_files(group: Path) -> tuple[dict[str, Any], Any, Path]:
    """Hyper-parameters, arrays and the initial checkpoint of a trajectory."""
    (init,) = group.parent.glob(f"{group.name}.init.*")
    return json.loads(group.with_suffix(".json").read_text()), np.load(group.with_suffix(".npz")), init


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def trunk(state: dict[str, Tensor]) -> tuple[nn.Module, int]:
    """The encoder of a state dict with torchvision's names, and the size of its output."""
    architecture, renamed = recognise({k: v for k, v in state.items() if not k.startswith("fc.")})
    encoder = build_encoder(architecture)
    encoder.load_state_dict(renamed)
    return encoder, architecture.num_features


def give_draws(bank: Any, draws: list[np.ndarray]) -> None:
    """Let a bank take these rows, one array for each of its draws, instead of random ones."""
    queue = iter([torch.as_tensor(np.asarray(draw)).long() for draw in draws])
    bank.draw = lambda rows, step, term=0: next(queue)


def train_steps(
    model: Method, hyper: dict[str, Any], data: Any, inputs: list[list[Tensor]]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Make the official code's steps, and yield the losses of each after its update."""
    assert inputs, "a trajectory without steps"
    optimiser = training.engine.optim.sgd(
        model, model.parameter_groups(_optim(hyper)), momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )
    for group in optimiser.param_groups:
        group["lr"] = hyper["learning_rate"]
    model.train()
    for step, views in enumerate(inputs):
        info = StepInfo(step, len(inputs), 0, 0.0)
        model.before_step(info)
        rows = [torch.as_tensor(data["index"][step])] if model.uses_rows else []
        losses = model(views, None, *rows)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        model.before_update(info)
        optimiser.step()
        model.after_step(info)
        yield step, losses


def _optim(hyper: dict[str, Any]) -> Any:
    return SimpleNamespace(weight_decay=hyper["weight_decay"], momentum=hyper["momentum"])
